"""The rows of an evaluation, found by what they are of, and laid out as tables with their worth."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tintem_core.evaluation.metrics import BOUNDS, CATALOGUE, EXCHANGE, metric_of

Record = dict[str, Any]
# The student first, then what it is worth: from the least to the most that can be expected.
_ORDER = ("student", "head", EXCHANGE, "constant", *BOUNDS, "teacher")
_FLOORS = ("constant", BOUNDS[0])
_NAMES = {
    EXCHANGE: "student, in another student's index",
    "constant": "constant answer",
    "head": "student through its training head",
    "mapped": "mapped teacher",
}
TEACHER_SHARED = {"shared_knn": "knn"}
"""A teacher asked in its own index is the teacher: what it is measured by outside of one."""


@dataclass(frozen=True)
class Cell:
    """A measured number: as it is read, and where it lies on a scale from 0 to 1."""

    text: str
    value: float
    low: float
    high: float

    @property
    def is_on_scale(self) -> bool:
        return min(self.low, 1 - self.high) >= 0


@dataclass(frozen=True)
class Line:
    """One measure of one dataset, by everyone it was measured of."""

    label: str
    dataset: str
    n: int
    cells: tuple[Cell | None, ...]
    """In the order of the table's columns."""
    chance: float | None
    lower_is_better: bool
    own: Cell | None
    """The student's."""
    floor: float | None
    """What an answer reaches that knows nothing."""
    ceiling: float | None
    """What the teacher reaches."""


@dataclass(frozen=True)
class MeasureTable:
    """Measures as lines, those they were measured of as columns."""

    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    has_chance: bool


class Measures:
    """The rows of one evaluation's record."""

    def __init__(self, rows: Iterable[Record]) -> None:
        self.rows = list(rows)
        self._by_name = {(r["subject"], r["dataset"], r["name"]): r for r in self.rows}
        self.answers = "head" if any(r["subject"] == "head" for r in self.rows) else "student"
        """Who answers in the teacher's space."""

    def find(self, subject: str, dataset: str, name: str) -> Record | None:
        return self._by_name.get((subject, dataset, name))

    def value(self, subject: str, dataset: str, name: str) -> float | None:
        row = self.find(subject, dataset, name)
        return None if row is None else float(row["value"])

    def table(self, wanted: Callable[[Record], bool]) -> MeasureTable:
        """Lay the rows that are wanted out; one line for each dataset and measure."""
        names = list(dict.fromkeys((r["dataset"], r["name"]) for r in self.rows if wanted(r)))
        found = [self._subjects(dataset, name) for dataset, name in names]
        subjects = sorted({s for each in found for s in each}, key=_rank)
        lines = [
            _line(dataset, name, each, subjects)
            for (dataset, name), each in zip(names, found, strict=True)
        ]
        return MeasureTable(
            tuple(_NAMES.get(subject, subject) for subject in subjects),
            tuple(lines),
            any(line.chance is not None for line in lines),
        )

    def of(self, *kinds: str, dataset: str | None = None) -> MeasureTable:
        """Lay out what the catalogue knows to be of some kinds; see ``Metric.of``."""
        return self.table(
            lambda row: (
                row["name"] in CATALOGUE
                and CATALOGUE[row["name"]].of in kinds
                and dataset in (None, row["dataset"])
            )
        )

    def _subjects(self, dataset: str, name: str) -> dict[str, Record]:
        found = {r["subject"]: r for r in self.rows if (r["dataset"], r["name"]) == (dataset, name)}
        alias = self.find("teacher", dataset, TEACHER_SHARED.get(name, name))
        return found if alias is None else {**found, "teacher": alias}


def label_of(row: Record) -> str:
    """Return what a row is called in a record: subject/dataset/name."""
    return "/".join(part for part in (row["subject"], row["dataset"], row["name"]) if part)


def say(row: Record) -> str:
    """Write a number with its interval."""
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _rank(subject: str) -> tuple[int, str]:
    return (_ORDER.index(subject) if subject in _ORDER else len(_ORDER), subject)


def _line(dataset: str, name: str, found: dict[str, Record], subjects: Sequence[str]) -> Line:
    cells = {who: _cell(row) for who, row in found.items()}
    chances = [row["chance"] for row in found.values() if row.get("chance") is not None]
    floors = [cells[who].value for who in _FLOORS if who in cells] + chances[:1]
    ceiling = cells.get("teacher", cells.get(BOUNDS[1]))
    metric = metric_of(name)
    return Line(
        label=metric.label,
        dataset=dataset,
        n=next(iter(found.values()))["n"],
        cells=tuple(cells.get(who) for who in subjects),
        chance=chances[0] if chances else None,
        lower_is_better=metric.lower_is_better,
        own=cells.get("student", cells.get("head")),
        floor=max(floors, default=None),
        ceiling=None if ceiling is None else ceiling.value,
    )


def _cell(row: Record) -> Cell:
    return Cell(say(row), *(float(row[part]) for part in ("value", "low", "high")))
