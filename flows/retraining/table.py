"""A night and the history of the latest, laid out for a terminal."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from flows.retraining.gates import VERDICTS
from storage.registry import rejected
from storage.versions import Version

_STYLES = {True: "green", False: "bold red", None: "dim"}


def gates_table(lines: Collection[Mapping[str, Any]], photos: str) -> Table | None:
    """Lay out what the gates said; None where none was asked.

    Args:
        lines: students, each with its name and its gates.
        photos: which the numbers are of.
    """
    table = Table(box=None, pad_edge=False, title_justify="left", title_style="bold")
    table.title = f"Gates, on {photos}"
    table.add_column("metric", no_wrap=True)
    table.add_column("limit", no_wrap=True)
    for title in ("new", "latest"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("verdict")
    for line in lines:
        if len(lines) > 1 and line["gates"]:
            table.add_row(f"[bold]{escape(line['name'])}")
        for gate in line["gates"]:
            verdict = gate["passed"]
            verdict_text = VERDICTS[verdict] + (f": {gate['why']}" if verdict is None else "")
            numbers = (_number(gate[side]) for side in ("value", "latest"))
            shown = f"[{_STYLES[verdict]}]{escape(verdict_text)}[/]"
            table.add_row(escape(gate["metric"]), gate["rule"], *numbers, shown)
    return table if table.rows else None


def history_table(line: str, entries: Iterable[Version]) -> Table:
    """Lay out what came into force, oldest first."""
    entries = list(entries)
    table = Table(box=None, pad_edge=False, title=line, title_justify="left", title_style="bold")
    table.add_column("entry", justify="right")
    for title in ("since (UTC)", "", "student", "why"):
        table.add_column(title, overflow="fold")
    turned_away = rejected(entries)
    for entry in entries:
        student = entry.model.student
        if student in turned_away:
            student += " (turned away)"
        in_force = "bold cyan" if entry is entries[-1] else ""
        since = entry.since.removesuffix("+00:00").replace("T", " ")
        table.add_row(
            str(entry.number), since, entry.action, student, escape(entry.why), style=in_force
        )
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
