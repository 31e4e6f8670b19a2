"""The groups of the test photos that a student is worst at, in words."""

from typing import Any

import polars as pl

from flows.reporting.evidence import TEST
from flows.reporting.measures import Measures

FEWEST = 10
"""Photos of a group that is named in a sentence."""


def share_interval(share: float, photos: int) -> tuple[float, float]:
    """Return the 95% interval of a share of photos, by Wilson's score (JASA 22, 1927)."""
    # Only here: it takes a second to import.
    from scipy.stats import binomtest

    found = binomtest(round(share * photos), photos).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def say_share(share: float, photos: int) -> str:
    """Write a share of photos with its 95% interval, in percent."""
    low, high = share_interval(share, photos)
    return f"{share:.0%} [{low:.0%}, {high:.0%}] of {photos:,}"


def worst_groups(groups: pl.DataFrame, measures: Measures) -> list[str]:
    """Name the worst group of every column, beside the number of all photos.

    Args:
        groups: of an evaluation; of each column the worst first.
        measures: of the same evaluation.
    """
    right = measures.value("student", TEST, "knn")
    cosine = measures.value(measures.answers, TEST, "cosine_to_mapped")
    said = []
    for (column,), table in groups.group_by("column", maintain_order=True):
        counted = pl.col("n") if right is None else pl.col("labelled")
        rows = table.filter(counted >= FEWEST).to_dicts()
        # One group alone is worse than none.
        if len(rows) > 1 and (worst := _worst(rows[0], right, cosine)):
            said.append(f"By {column}, the student is {worst}")
    return said


def _worst(row: dict[str, Any], right: float | None, cosine: float | None) -> str | None:
    if right is not None:
        return (
            f"least accurate for {row['value']}: {say_share(row['knn'], row['labelled'])} "
            f"photos right (the teacher {row['teacher_knn']:.0%}), of all photos {right:.0%}."
        )
    if cosine is not None:
        return (
            f"least faithful for {row['value']}: cosine {row['faithfulness']:.3f} over "
            f"{row['n']:,} photos, over all {cosine:.3f}."
        )
    return None
