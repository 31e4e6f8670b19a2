"""A leaderboard for a terminal, and for a Prefect artifact."""

from collections.abc import Iterator
from typing import Any

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from flows.experiments.standings import Group, Leaderboard
from tintem_core.evaluation.metrics import metric_of

_NOTHING = "–"
_NAME_WIDTH, _STYLES = 16, {"name": "cyan", "id": "dim"}


def tables(found: Leaderboard, *, ids: bool = True) -> Iterator[Table]:
    """Lay a leaderboard out: a table per group, one over seeds, and what is unfinished.

    Args:
        ids: whether there is room for the students' ids.
    """
    for group in found.groups:
        yield _ranking(group, ids)
        if group.variants()["seeds"].max() != 1:
            yield _over_seeds(group)
    if found.unfinished:
        table = _table("not evaluated", "name", "status", "id")
        for student in found.unfinished:
            table.add_row(*(escape(student[key]) for key in ("name", "status", "student")))
        yield table


def footnotes(found: Leaderboard) -> Iterator[str]:
    """Say what a reader must know to read the numbers."""
    if found.groups:
        yield "Square brackets: bootstrap 95% intervals over photos."
        yield "Starred: the Pareto front, no student of as few parameters is better."
    if len(found.groups) > 1:
        yield "Numbers compare within a table only: photos, teacher or questions differ."
    if found.groups and found.crowded:
        yield (
            "Some latencies were measured while other students trained beside: they are too long."
        )
    if any(group.table["measured_on"].drop_nulls().n_unique() > 1 for group in found.groups):
        yield "Latencies were measured on different machines: do not compare them."


def artifact_rows(group: Group) -> list[dict[str, Any]]:
    """Return a group as the rows of a table artifact."""
    return [dict(zip(_titles(group), cells, strict=True)) for cells in _cells(group)]


def heading(group: Group) -> str:
    """Say what a group's numbers are about."""
    return (
        f"{group.data}: {group.test_photos:,} unseen photos, teacher {group.teacher.name}, "
        f"ranked by {group.metric}"
        + (" (less is better)" if metric_of(group.metric).lower_is_better else "")
    )


def _titles(group: Group) -> list[str]:
    metric = group.metric.removeprefix("student/test/")
    ood = [f"AUROC {name}" for name in group.ood]
    return [
        "#",
        "name",
        "front",
        metric,
        "kNN",
        *ood,
        "parameters",
        "ONNX",
        "latency",
        "status",
        "id",
    ]


def _cells(group: Group) -> Iterator[list[str]]:
    for row in group.table.iter_rows(named=True):
        yield [
            str(row["rank"]),
            row["name"],
            "*" if row["front"] else "",
            _interval(row),
            _number(row["knn"]),
            *(_number(row[f"auroc/{name}"]) for name in group.ood),
            f"{row['parameters'] / 1e6:.2f} M",
            _NOTHING if row["onnx_bytes"] is None else decimal(row["onnx_bytes"]),
            _NOTHING if row["latency_ms"] is None else f"{row['latency_ms']:.1f} ms",
            row["status"],
            row["student"],
        ]


def _ranking(group: Group, ids: bool) -> Table:
    shown = slice(None if ids else -1)
    table = _table(heading(group), *_titles(group)[shown])
    for cells in _cells(group):
        table.add_row(*(escape(cell) for cell in cells[shown]))
    return table


def _over_seeds(group: Group) -> Table:
    table = _table("over seeds", "name", "seeds", "mean", "standard deviation")
    for row in group.variants().iter_rows(named=True):
        cells = (row["variant"], str(row["seeds"]), _number(row["mean"]), _number(row["deviation"]))
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(
        box=None, pad_edge=False, title=escape(title), title_justify="left", title_style="bold"
    )
    for column in columns:
        if column in ("name", "id", "status"):
            width = _NAME_WIDTH if column == "name" else None
            table.add_column(column, overflow="fold", min_width=width, style=_STYLES.get(column))
        else:
            table.add_column(escape(column), justify="right", overflow="fold")
    return table


def _interval(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return _NOTHING
    if row["low"] is None:
        return _number(row["value"])
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.3f}"
