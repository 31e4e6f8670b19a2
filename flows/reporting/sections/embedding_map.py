"""A map of the photos: both spaces in two dimensions, side by side and linked.

Each space is projected on its two principal components (of unit vectors), so that nothing is drawn
that is not in the embeddings; the student's picture is turned and scaled onto the teacher's by
orthogonal Procrustes analysis. Legend: ``P`` photos of all sets, ``K`` width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bokeh.models import BoxSelectTool, ColumnDataSource, ResetTool, TapTool
from bokeh.plotting import figure
from numpy.typing import NDArray
from scipy.linalg import eigh, orthogonal_procrustes

from flows.reporting.evidence import Evidence, SeenSet
from flows.reporting.plots import COLOURS, TEACHER, hover, plot
from flows.reporting.sections.base import Section
from tintem_core.evaluation.cosine import unit_rows

_MOST_PHOTOS, _MOST_COLOURS = 500, len(COLOURS)
_NO_PICTURE = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
_TIP = """<div style="text-align:center;max-width:180px;overflow-wrap:anywhere">
<img src="@picture" alt="" width="96" height="96"><br>@name<br><b>@kind</b></div>"""


@dataclass(frozen=True)
class Kind:
    """Photos of one colour."""

    name: str
    colour: str
    photos: int


@dataclass(frozen=True, kw_only=True)
class EmbeddingMap(Section):
    """Teacher and student, point by point."""

    name = "embedding_map"
    title = "A map of the photos"
    kinds: Sequence[Kind]


def embedding_map(evidence: Evidence) -> EmbeddingMap:
    """Project some photos of every set, as the teacher and as the student sees them."""
    shown = [(seen, _spread(len(seen), most)) for seen, most in _shares(evidence.sets)]
    teacher, kept = _projected(np.concatenate([s.teacher[rows] for s, rows in shown]))
    student, also = _projected(np.concatenate([s.student[rows] for s, rows in shown]))
    turned, scale = orthogonal_procrustes(student, teacher)
    student = student @ turned * (scale / max(float((student**2).sum()), 1e-12))
    kinds = [_kind(seen, int(row)) for seen, rows in shown for row in rows]
    legend = _legend(kinds)
    colours = {kind.name: kind.colour for kind in legend}
    pictures = evidence.pictures([seen.photo(row) for seen, rows in shown for row in rows])
    source = ColumnDataSource(
        {
            "tx": teacher[:, 0], "ty": teacher[:, 1], "sx": student[:, 0], "sy": student[:, 1],
            "kind": kinds,
            "colour": [colours.get(kind, TEACHER) for kind in kinds],
            "name": [picture.name for picture in pictures],
            "picture": [picture.image or _NO_PICTURE for picture in pictures],
        }
    )  # fmt: skip
    said = (
        f"Each point is one of {len(kinds):,} photos; the two directions that vary most show "
        f"{kept:.0%} of the variance of the teacher's embeddings, and {also:.0%} of the student's. "
        "Click a point, or select several with the box of the toolbar, to find them on the other "
        "side."
    )
    return EmbeddingMap(
        says=(said,),
        kinds=legend,
        plots={
            "map_teacher": _drawn("The teacher", source, "tx", "ty"),
            "map_student": _drawn("The student", source, "sx", "sy"),
        },
    )


def _shares(sets: Sequence[SeenSet]) -> list[tuple[SeenSet, int]]:
    """Say how many photos of each set there is room for: the test photos have half of it."""
    test, *ood = sets
    mine = min(len(test), _MOST_PHOTOS if not ood else _MOST_PHOTOS // 2)
    return [(test, mine), *((seen, (_MOST_PHOTOS - mine) // len(ood)) for seen in ood)]


def _spread(count: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _projected(embeddings_PK: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Return the first two principal components (P, 2), and their share of the variance."""
    units = unit_rows(embeddings_PK).astype(np.float64)
    units -= units.mean(axis=0)
    products = units @ units.T
    last = len(units) - 1
    values, axes = eigh(products, subset_by_index=[last - 1, last])
    values = np.maximum(values, 0)
    kept = float(values.sum() / max(np.trace(products), 1e-12))
    return (axes * np.sqrt(values))[:, ::-1], kept


def _kind(seen: SeenSet, row: int) -> str:
    if seen.name != "test":
        return f"{seen.name} (never trained on)"
    return seen.labels[row] or "without label"


def _legend(kinds: Sequence[str]) -> list[Kind]:
    names, counts = np.unique(np.array(kinds, dtype=object), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    few = len(order) <= _MOST_COLOURS
    own = order if few else order[: _MOST_COLOURS - 1]
    found = [Kind(str(names[i]), COLOURS[place], int(counts[i])) for place, i in enumerate(own)]
    if not few:
        rest = order[_MOST_COLOURS - 1 :]
        found.append(Kind(f"{len(rest)} other labels", TEACHER, int(counts[rest].sum())))
    return found


def _drawn(title: str, source: ColumnDataSource, x: str, y: str) -> figure:
    made = plot(title, "", "", height=380, toolbar_location="above")
    made.axis.visible = False
    made.add_tools(BoxSelectTool(), TapTool(), ResetTool())
    # A finger that moves over the map moves the page.
    made.toolbar.active_drag = None
    points = made.scatter(
        x, y, source=source, size=7, color="colour", alpha=0.75, line_color=None,
        nonselection_alpha=0.08,
    )  # fmt: skip
    hover(made, _TIP, points)
    return made
