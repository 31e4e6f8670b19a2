"""Two students side by side, on the same photos: what they differ in, and by how much.

A difference has one bootstrap interval, of both students on the same drawn photos: it is far
narrower than the intervals of the two make believe.
Legend: ``N`` photos, ``K`` width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from bokeh.models import ColumnDataSource, Slope
from numpy.typing import NDArray

from flows.reporting.evidence import Array, Evidence, Picture, SeenSet
from flows.reporting.plots import STUDENT, TEACHER, embedded, hover, plot
from flows.templates import render
from tintem_core.errors import InputError
from tintem_core.evaluation.bootstrap import MetricRow, bootstrap_interval
from tintem_core.evaluation.cosine import row_cosines
from tintem_core.evaluation.neighbours import nearest, neighbour_overlap
from tintem_core.evaluation.shared_space import shared_knn_of_others, shared_space
from tintem_core.evaluation.to_mapped import r2

_NEIGHBOURS, _SHOWN, _RESAMPLES, _SEED = 10, 12, 1000, 0
_NO_PICTURE = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
_TIP = '<img src="@picture" alt="" width="96" height="96"><br>@name'


@dataclass(frozen=True)
class Difference:
    """A measure of both, and how much the second has more."""

    label: str
    first: float
    second: float
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.second - self.first

    def verdict(self, names: Sequence[str]) -> str:
        """Say who is better, as far as these photos tell."""
        if self.low <= 0 <= self.high:
            return "not told apart"
        return f"{names[self.value > 0]} is better"


@dataclass(frozen=True)
class Apart:
    """A photo that the two are not equally faithful on."""

    picture: Picture
    first: float
    second: float


def comparison_page(names: Sequence[str], first: Evidence, second: Evidence) -> str:
    """Return a self-contained HTML page.

    Args:
        names: what the two are called.
        first, second: measured on the same test photos, against the same teachers.

    Raises:
        InputError: if they were measured on other photos, or against other teachers.
    """
    pair = first.evaluation["spec"], second.evaluation["spec"]
    for what in ("images", "caches"):
        if pair[0][what] != pair[1][what]:
            raise InputError(
                f"{names[0]} and {names[1]} were measured on other photos or against other "
                f"teachers (their {what} differ): numbers of the two do not compare."
            )
    found = list(differences(first.test, second.test))
    apart, plots = [], {}
    cosines = [_cosines(evidence.test) for evidence in (first, second)]
    if cosines[0] is not None and cosines[1] is not None:
        apart = _apart(first, cosines[0], cosines[1])
        plots = {"cosines": _scatter(names, first, cosines[0], cosines[1])}
    return render(
        "comparison.html.jinja",
        title=f"{names[0]} and {names[1]}",
        names=names,
        students=[(evidence.config.student.title, evidence) for evidence in (first, second)],
        photos=first.test.counted,
        says=[_sentence(names, each) for each in found[:1]],
        differences=found,
        exchanges=(exchanged := exchanges(names, first.test, second.test)),
        exchange_measures=_of_exchanges(exchanged),
        apart=apart,
        plots=(drawn := embedded([plots])),
        places=drawn.places,
    )


def differences(first: SeenSet, second: SeenSet) -> Iterator[Difference]:
    """Measure both on the same photos; measures of a shared space where both have one."""
    spaces = [(seen.asked, seen.answer) for seen in (first, second)]
    (asked, answer), (other_asked, other_answer) = spaces
    if not (asked is None or answer is None or other_asked is None or other_answer is None):
        yield _measured(
            "variance of the mapped teacher explained (R²)",
            lambda a, b, c, d: (r2(a, b), r2(c, d)),
            asked, answer, other_asked, other_answer,
        )  # fmt: skip
        yield _means(
            "cosine to the mapped teacher",
            row_cosines(asked, answer),
            row_cosines(other_asked, other_answer),
        )
        yield _means(
            "same photo first in the teacher's index",
            _finds_itself(asked, answer),
            _finds_itself(other_asked, other_answer),
        )
    if len(first) > _NEIGHBOURS + 1:
        yield _means(
            f"same {_NEIGHBOURS} nearest neighbours",
            *(neighbour_overlap(s.teacher, s.student, _NEIGHBOURS) for s in (first, second)),
        )


@dataclass(frozen=True)
class Exchange:
    """What one student finds in an index that the other has filled."""

    asks: str
    index: str
    rows: list[MetricRow]

    def value(self, name: str) -> str:
        """Spell a measure with its interval; a dash where so few photos do not give it."""
        found = next((row for row in self.rows if row.name == name), None)
        return "–" if found is None else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def exchanges(names: Sequence[str], first: SeenSet, second: SeenSet) -> list[Exchange]:
    """Let each student ask the index of the other, beside that of the teacher.

    Returns:
        Nothing where the two do not live in the same space: through another mapping, or none.
    """
    if first.answer is None or second.answer is None:
        return []
    if first.asked is None or second.asked is None or not np.array_equal(first.asked, second.asked):
        return []
    teacher = ("the teacher", first.asked)
    one, other = (names[0], first.answer), (names[1], second.answer)
    return [
        Exchange(asks, whose, [*_asked(first, index, queries)])
        for (asks, queries), (whose, index) in (
            (one, other), (one, teacher), (other, one), (other, teacher)
        )
    ]  # fmt: skip


def _finds_itself(
    index_NK: NDArray[np.float32], queries_NK: NDArray[np.float32]
) -> NDArray[np.float64]:
    _, found = nearest(index_NK, queries_NK, 1)
    return np.asarray(found[:, 0] == np.arange(len(found)), np.float64)


def _asked(seen: SeenSet, index_NK: Array, query_NK: Array) -> Iterator[MetricRow]:
    yield from shared_space(seen.teacher, index_NK, query_NK, seed=_SEED, resamples=_RESAMPLES)
    told = np.array([label is not None for label in seen.labels])
    known = [label for label in seen.labels if label is not None]
    names, labels = np.unique(known, return_inverse=True)
    if len(names) > 1:
        yield shared_knn_of_others(
            index_NK[told], query_NK[told], labels, _NEIGHBOURS, seed=_SEED, resamples=_RESAMPLES
        )


def _of_exchanges(found: Sequence[Exchange]) -> list[tuple[str, str, float | None]]:
    """Return name, label and chance of what every index was asked for."""
    named = []
    for row in found[0].rows if found else []:
        kind, _, k = row.name.rpartition("_")
        labels = {
            "shared_overlap": f"teacher's {k} neighbours found",
            "same_photo_at": f"same photo among the first {k}" if k != "1" else "same photo first",
            "shared": "kNN among the other photos",
        }
        named.append((row.name, labels[kind], row.chance))
    return named


def _means(label: str, first_N: NDArray[np.float64], second_N: NDArray[np.float64]) -> Difference:
    return _measured(label, lambda a, b: (float(a.mean()), float(b.mean())), first_N, second_N)


def _measured(
    label: str, pair: Callable[..., tuple[float, float]], *arrays: NDArray[np.floating]
) -> Difference:
    def apart(*drawn: NDArray[np.floating]) -> float:
        one, other = pair(*drawn)
        return other - one

    interval = bootstrap_interval(apart, *arrays, seed=_SEED, resamples=_RESAMPLES, paired=True)
    return Difference(label, *pair(*arrays), *interval)


def _sentence(names: Sequence[str], found: Difference) -> str:
    if found.low <= 0 <= found.high:
        return (
            f"These photos do not tell {names[0]} and {names[1]} apart by the "
            f"{found.label}: {found.first:.3f} and {found.second:.3f}."
        )
    better, value = names[found.value > 0], abs(found.value)
    low, high = sorted((abs(found.low), abs(found.high)))
    return (
        f"{better} is better by {value:.3f} [{low:.3f}, {high:.3f}] in the {found.label}: "
        f"{names[0]} has {found.first:.3f}, {names[1]} {found.second:.3f}."
    )


def _cosines(test: SeenSet) -> NDArray[np.float64] | None:
    if test.asked is None or test.answer is None:
        return None
    return row_cosines(test.asked, test.answer)


def _apart(
    evidence: Evidence, first_N: NDArray[np.float64], second_N: NDArray[np.float64]
) -> list[Apart]:
    rows = np.argsort(-np.abs(first_N - second_N), kind="stable")[:_SHOWN].tolist()
    pictures = evidence.pictures([evidence.test.photo(row) for row in rows])
    return [
        Apart(picture, float(first_N[row]), float(second_N[row]))
        for row, picture in zip(rows, pictures, strict=True)
    ]


def _scatter(
    names: Sequence[str],
    evidence: Evidence,
    first_N: NDArray[np.float64],
    second_N: NDArray[np.float64],
) -> object:
    rows = np.unique(np.linspace(0, len(first_N) - 1, min(len(first_N), 400)).astype(int)).tolist()
    pictures = evidence.pictures([evidence.test.photo(row) for row in rows])
    source = ColumnDataSource(
        {
            "first": first_N[rows],
            "second": second_N[rows],
            "name": [picture.name for picture in pictures],
            "picture": [picture.image or _NO_PICTURE for picture in pictures],
        }
    )
    made = plot("Cosine of each photo to the mapped teacher", names[0], names[1], height=420)
    made.add_layout(Slope(gradient=1, y_intercept=0, line_color=TEACHER, line_dash="dashed"))
    points = made.scatter("first", "second", source=source, size=6, alpha=0.6, color=STUDENT,
                          line_color=None)  # fmt: skip
    hover(made, _TIP, points)
    return made
