"""Which students are good enough: conditions on what was measured of them."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import polars as pl

from flows.experiments.standings import Group, Leaderboard
from tintem_core.errors import InputError

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
COLUMNS = ("parameters", "onnx_bytes", "latency_ms")
SORTS = ("value", "name", *COLUMNS)


@dataclass(frozen=True)
class Condition:
    """A measure or a cost, and the bound that it must keep."""

    of: str
    """subject/dataset/name, or one of ``COLUMNS``."""
    comparison: str
    bound: float

    def holds(self, value: float | None) -> bool:
        """Say whether a value keeps the bound; one that was not measured does not."""
        return value is not None and _COMPARISONS[self.comparison](value, self.bound)


def parse_condition(text: str) -> Condition:
    """Read a condition such as ``student/test/knn>=0.9`` or ``parameters<2e6``.

    Raises:
        InputError: if it is none.
    """
    found = re.fullmatch(r"\s*(.+?)\s*(>=|<=|>|<)\s*(\S+)\s*", text)
    try:
        if found is None:
            raise ValueError
        return Condition(found[1], found[2], float(found[3]))
    except ValueError as error:
        raise InputError(
            f"'{text}' is no condition: write a measure, one of {', '.join(_COMPARISONS)} and a "
            "number, such as student/test/same_photo_at_1>=0.9 or latency_ms<=5."
        ) from error


def only(found: Leaderboard, conditions: Sequence[Condition]) -> Leaderboard:
    """Return the students that keep all conditions, with the ranks that they have among all.

    Raises:
        InputError: if no student has such a measure.
    """
    known = {name for group in found.groups for mine in group.measures.values() for name in mine}
    for condition in conditions:
        if found.groups and condition.of not in (*COLUMNS, *known):
            closest = get_close_matches(condition.of, [*COLUMNS, *known], 3, 0)
            raise InputError(
                f"no student was measured by '{condition.of}'; the nearest are "
                f"{', '.join(closest)}."
            )
    groups = [replace(group, table=_kept(group, conditions)) for group in found.groups]
    return replace(found, groups=tuple(group for group in groups if group.table.height))


def _kept(group: Group, conditions: Sequence[Condition]) -> pl.DataFrame:
    keep = [
        all(c.holds(row[c.of] if c.of in COLUMNS else group.measures[row["student"]].get(c.of))
            for c in conditions)
        for row in group.table.to_dicts()
    ]  # fmt: skip
    return group.table.filter(pl.Series(keep, dtype=pl.Boolean))


def smallest(found: Leaderboard) -> list[str]:
    """Say of each group which student has the fewest parameters; the better of two of one size."""
    said = []
    for group in found.groups:
        row = group.table.sort("parameters", "rank").row(0, named=True)
        latency = row["latency_ms"]
        time = "" if latency is None else f", {latency:.1f} ms a photo"
        said.append(
            f"{group.data}: {row['name']}, {row['parameters'] / 1e6:.2f} M parameters{time}, "
            f"{group.metric} {row['value']:.3f} ({row['student']})"
            if row["value"] is not None
            else f"{group.data}: {row['name']}, {row['parameters'] / 1e6:.2f} M parameters{time} "
            f"({row['student']})"
        )
    return said


def sorted_by(found: Leaderboard, column: str) -> Leaderboard:
    """Order the students by a cost or their names instead of the metric; ranks stay.

    Raises:
        InputError: if there is no such column.
    """
    if column not in SORTS:
        raise InputError(f"--sort {column}: sort by one of {', '.join(SORTS)}.")
    if column == "value":
        return found
    return replace(
        found,
        groups=tuple(
            replace(group, table=group.table.sort(column, "rank", nulls_last=True))
            for group in found.groups
        ),
    )
