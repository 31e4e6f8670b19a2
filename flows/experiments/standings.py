"""What a leaderboard says: groups of students whose numbers compare, and their teacher."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from tintem_core.evaluation.metrics import metric_of

SCHEMA = {
    "name": pl.String, "variant": pl.String, "status": pl.String,
    "parameters": pl.Int64, "onnx_bytes": pl.Int64, "latency_ms": pl.Float64,
    "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "knn": pl.Float64,
    "student": pl.String, "evaluation": pl.String, "export": pl.String, "measured_on": pl.String,
}  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """The teacher, measured as its students are."""

    name: str
    parameters: int | None
    value: float
    low: float | None
    high: float | None
    measured: bool
    """False: it is 1 because the teacher agrees with itself."""


@dataclass(frozen=True)
class Group:
    """Students whose numbers compare."""

    data: str
    test_photos: int
    metric: str
    teacher: Reference
    table: pl.DataFrame
    """The best first: rank, the columns of ``SCHEMA``, ``auroc/<name>`` per OOD set, and ``front``:
    whether no student of as few parameters is better."""
    measures: Mapping[str, Mapping[str, float]]
    """By student, everything that was measured of it, by subject/dataset/name."""

    @property
    def ood(self) -> list[str]:
        """The names of the OOD sets."""
        return [c.removeprefix("auroc/") for c in self.table.columns if c.startswith("auroc/")]

    def variants(self) -> pl.DataFrame:
        """Return variant, seeds, and mean and standard deviation of the metric over them."""
        value = pl.col("value")
        over_seeds = self.table.group_by("variant", maintain_order=True).agg(
            seeds=pl.len(), mean=value.mean(), deviation=value.std()
        )
        return over_seeds.sort(
            "mean", descending=not metric_of(self.metric).lower_is_better, nulls_last=True
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "test_photos": self.test_photos,
            "metric": self.metric,
            "teacher": asdict(self.teacher),
            "students": [
                {**row, "measures": dict(self.measures[row["student"]])}
                for row in self.table.to_dicts()
            ],
            "variants": self.variants().to_dicts(),
        }


def on_front(table: pl.DataFrame, metric: str) -> pl.Series:
    """Say of each student whether no other of as few parameters is better: column ``front``."""
    sign = -1 if metric_of(metric).lower_is_better else 1
    points = list(zip(table["parameters"], table["value"], strict=True))

    def is_beaten(size: int, value: float) -> bool:
        return any(
            other is not None
            and smaller <= size
            and sign * other >= sign * value
            and (smaller, other) != (size, value)
            for smaller, other in points
        )

    on = [value is not None and not is_beaten(size, value) for size, value in points]
    return pl.Series("front", on, dtype=pl.Boolean)


@dataclass(frozen=True)
class Leaderboard:
    """All students of a root, or some."""

    groups: tuple[Group, ...]
    unfinished: tuple[dict[str, Any], ...]
    """name, student and status of those that are not evaluated."""
    crowded: bool
    """Whether some were timed while others trained on the same machine."""

    def as_csv(self) -> str:
        """Return one line for each student, with everything that was measured of it."""
        tables = []
        for group in self.groups:
            measured = [dict(group.measures[student]) for student in group.table["student"]]
            names = dict.fromkeys(name for mine in measured for name in mine)
            further = pl.DataFrame(measured, schema=dict.fromkeys(names, pl.Float64))
            about = pl.lit(group.data).alias("data"), pl.lit(group.metric).alias("metric")
            tables.append(group.table.select(*about, pl.all()).hstack(further))
        return pl.concat(tables, how="diagonal").write_csv() if tables else ""

    def as_json(self) -> dict[str, Any]:
        return {"groups": [g.as_json() for g in self.groups], "unfinished": list(self.unfinished)}
