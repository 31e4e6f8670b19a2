"""What a person sees: progress bars, notes, and the summary table."""

import contextlib
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from flows.reporting.base import Advance
from flows.reporting.summary import Row


class RateColumn(ProgressColumn):
    """Units per second over the last seconds."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="cyan")


class _Bars(Progress):
    """Bars, and below each what was last said of it: beside it, it would have no room."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            if says := task.fields["says"]:
                yield Text(f"  {says}", style="dim", no_wrap=True, overflow="ellipsis")


class TerminalReporter:
    """Progress bars with rate and time left; without a terminal, one line per stage."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        columns = (
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn(unit),
            RateColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        live = self._console.is_terminal
        with _Bars(*columns, console=self._console, disable=not live) as progress:
            task = progress.add_task(title, total=total or None, says="")

            def advance(done: int, /, says: str = "") -> None:
                progress.advance(task, done)
                if says:
                    progress.update(task, says=says)

            yield advance
            if not total:
                done = progress.tasks[0].completed
                progress.update(task, total=done, completed=done)
        if not live:
            finished = progress.tasks[0]
            elapsed = finished.elapsed or 0.0
            text = f"  {title}: {finished.completed:,.0f} {unit} in {elapsed:.1f} s"
            if says := finished.fields["says"]:
                text += f", {says}"
            self._console.print(text, soft_wrap=True)

    def note(self, text: str) -> None:
        self._console.print(f"[dim]· {escape(text)}[/dim]", highlight=False, soft_wrap=True)


def summary_table(rows: list[Row]) -> Table:
    """Lay the summary out for a terminal."""
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.add_column("")
    table.add_column("teacher", justify="right")
    table.add_column("student", justify="right", style="bold cyan")
    group = ""
    for row in rows:
        if row.group != group:
            group = row.group
            table.add_row(f"[bold]{group}")
        table.add_row(f"  {row.label}", row.teacher, row.student)
    return table
