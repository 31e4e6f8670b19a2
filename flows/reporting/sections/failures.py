"""Where does it fail? Labels, corruptions, and the least faithful photos."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from flows.reporting.evidence import TEST, Evidence, Picture
from flows.reporting.groups import say_share, share_interval, worst_groups
from flows.reporting.measures import MeasureTable
from flows.reporting.sections.base import Section
from tintem_core.evaluation.cosine import row_cosines

_SHOWN, _LABELS, _GROUPS, _FEWEST = 12, 20, 10, 4
# What a corruption is judged by, the first that was measured.
_BY = {"knn": "kNN accuracy", "cosine": "cosine to the mapped teacher", "pearson": "Pearson"}


@dataclass(frozen=True)
class Missed:
    """A photo that the student answers least well for."""

    picture: Picture
    cosine: float


@dataclass(frozen=True)
class GroupTable:
    """Test photos told apart by what is written beside them."""

    column: str
    rows: Sequence[dict[str, Any]]
    """As those of labels, with labelled beside n; the worst first."""
    aside: str
    """What is not in the rows."""


@dataclass(frozen=True)
class HeatMap:
    """A number for every corruption and severity."""

    what: str
    severities: Sequence[int]
    lines: Sequence[tuple[str, Sequence[float | None]]]
    """The corruption, and its numbers by severity; the worst first."""


@dataclass(frozen=True, kw_only=True)
class Failures(Section):
    """Accuracy and faithfulness by label, under corruptions, and of single photos."""

    name = "failures"
    title = "Where does it fail?"
    table: MeasureTable
    labels: Sequence[dict[str, Any]]
    """value, n, knn, teacher_knn, faithfulness, false_alarms; the least accurate first.

    Beside knn and false_alarms their intervals.
    """
    labels_left_out: int
    groups: Sequence[GroupTable]
    heat: HeatMap | None
    photos: Sequence[Missed]


def failures(evidence: Evidence) -> Failures:
    """Find the labels, the corruptions and the photos that the student is worst at."""
    table = evidence.measures.of("votes", "agreement", "probes", "corruptions")
    unmeasured = []
    labels: list[dict[str, Any]] = []
    if (classes := evidence.tables.get("classes")) is None:
        unmeasured.append("accuracy, because train or test photos have no labels.")
    else:
        labels = _with_intervals(classes.rename({"label": "value"}))
    heat = None
    if (corruptions := evidence.tables.get("corruptions")) is None:
        unmeasured.append(
            "corrupted photos, because the config asks for none (evaluation.corrupted_photos)."
        )
    else:
        heat = _heat(corruptions)
    photos = _least_faithful(evidence)
    if not photos:
        unmeasured.append(
            "the faithfulness of single photos, because the student answers in a space of its own."
        )
    return Failures(
        says=tuple(_says(evidence, labels, heat)),
        unmeasured=tuple(unmeasured),
        table=table,
        labels=labels[:_LABELS],
        labels_left_out=max(0, len(labels) - _LABELS),
        groups=_groups(evidence),
        heat=heat,
        photos=photos,
    )


def _groups(evidence: Evidence) -> list[GroupTable]:
    if (groups := evidence.tables.get("groups")) is None:
        return []
    found = []
    for column, counts in evidence.evaluation["groups"].items():
        table = groups.filter(pl.col("column") == column)
        aside = {
            "more in the evaluation's groups.parquet": len(table) - _GROUPS,
            f"more not measured, as {len(table)} have the most photos": counts["values"]
            - len(table),
            f"photos without {column}": counts["photos_without"],
        }
        told = [f"{count:,} {what}" for what, count in aside.items() if count > 0]
        found.append(GroupTable(column, _with_intervals(table.head(_GROUPS)), "; ".join(told)))
    return found


def _with_intervals(table: pl.DataFrame) -> list[dict[str, Any]]:
    """Put beside every share what it may be by chance: knn_interval, false_alarms_interval."""
    return [
        {
            **row,
            "knn_interval": None
            if row["knn"] is None
            else share_interval(row["knn"], row.get("labelled", row["n"])),
            "false_alarms_interval": share_interval(row["false_alarms"], row["n"]),
        }
        for row in table.to_dicts()
    ]


def _least_faithful(evidence: Evidence) -> list[Missed]:
    test = evidence.test
    if test.asked is None or test.answer is None:
        return []
    cosines_N = row_cosines(test.asked, test.answer)
    worst = np.argsort(cosines_N, kind="stable")[:_SHOWN].tolist()
    pictures = evidence.pictures([test.photo(row) for row in worst])
    return [
        Missed(picture, float(cosines_N[row])) for row, picture in zip(worst, pictures, strict=True)
    ]


def _heat(table: pl.DataFrame) -> HeatMap:
    by = next(name for name in _BY if table[name].null_count() < table.height)
    severities = sorted(table["severity"].unique().to_list())
    order = table.group_by("corruption").agg(pl.col(by).mean()).sort(by, "corruption")
    cells = {(row["corruption"], row["severity"]): row[by] for row in table.to_dicts()}
    return HeatMap(
        _BY[by],
        severities,
        [(name, [cells[name, each] for each in severities]) for name in order["corruption"]],
    )


def _says(evidence: Evidence, labels: Sequence[dict[str, Any]], heat: HeatMap | None) -> list[str]:
    said = []
    knn = {who: evidence.measures.value(who, TEST, "knn") for who in ("teacher", "student")}
    if knn["student"] is not None and knn["teacher"] is not None:
        said.append(
            f"Asked for the label, its nearest neighbours are right for {knn['student']:.1%} of "
            f"the photos, the teacher's for {knn['teacher']:.1%}."
        )
    told = [row for row in labels if row["n"] >= _FEWEST]
    if len(told) > 1:
        worst, best = told[0], told[-1]
        said.append(
            f"It is worst at {worst['value']} ({say_share(worst['knn'], worst['n'])} photos right, "
            f"the teacher {worst['teacher_knn']:.0%}) and best at {best['value']} "
            f"({say_share(best['knn'], best['n'])}, the teacher {best['teacher_knn']:.0%})."
        )
    if (groups := evidence.tables.get("groups")) is not None:
        said += worst_groups(groups, evidence.measures)
    if heat is not None:
        said.append(f"Of the corruptions, it bears {heat.lines[0][0]} worst.")
    return said
