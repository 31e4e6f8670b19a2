"""`tintem sweep` trains many students from one cache; `tintem leaderboard` ranks what there is."""

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flows.cli.command import (
    WIDEST,
    AsJson,
    ConfigPath,
    Target,
    console,
    example,
    print_json,
    running,
)

if TYPE_CHECKING:
    from pathlib import Path

    from flows.config.run import RunConfig
    from flows.experiments.standings import Leaderboard


app = typer.Typer()
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="NAME", help="this student only; * stands for anything"),
]
Metric = Annotated[
    str | None, typer.Option("--metric", help="what to rank by, such as student/test/knn")
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="CONDITION", help="only such, as parameters<2e6; may repeat"),
]
Smallest = Annotated[
    list[str] | None,
    typer.Option(
        "--smallest",
        metavar="CONDITION",
        help="name the smallest that is good enough, as student/test/knn>=0.9; may repeat",
    ),
]
LatencyMs = Annotated[
    float | None, typer.Option("--latency-ms", min=0, help="only those at most as slow, ONNX")
]
Sort = Annotated[
    str, typer.Option("--sort", help="value, name, parameters, onnx_bytes or latency_ms")
]
AsCsv = Annotated[bool, typer.Option("--csv", help="print CSV with every measure")]


@app.command(
    epilog=example("tintem sweep tintem.yaml", "tintem sweep tintem.yaml --only 'mobilenet*'")
)
def sweep(config: ConfigPath, only: Only = None) -> None:
    """Train and rank the students of the config's sweep; again: what is missing."""
    with running(config) as run:
        from flows.sweep import SweepError
        from flows.sweep import sweep as sweep_flow
        from tintem_core.errors import InputError

        try:
            _show(run, sweep_flow(run, only))
            _next(config)
        except SweepError as error:
            # What failed is what the user hears of, also where the others cannot be ranked.
            with contextlib.suppress(InputError):
                _show(run, error.sweep)
            raise


@app.command(
    epilog=example(
        'tintem leaderboard tintem.yaml --where "parameters<2e6"',
        'tintem leaderboard tintem.yaml --smallest "student/test/knn>=0.9"',
    )
)
def leaderboard(
    target: Target,
    metric: Metric = None,
    where: Where = None,
    smallest: Smallest = None,
    latency_ms: LatencyMs = None,
    sort: Sort = "value",
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Rank every evaluated student, apart where numbers do not compare."""
    from flows.config.sweep import DEFAULT_METRIC
    from flows.experiments.conditions import Condition, only, parse_condition, sorted_by
    from flows.experiments.conditions import smallest as smallest_of
    from flows.experiments.leaderboard import leaderboard as read
    from flows.maintenance.status import open_existing
    from tintem_core.errors import InputError

    root = open_existing(target)
    found = read(root, metric or DEFAULT_METRIC)
    conditions = [parse_condition(text) for text in (*(where or ()), *(smallest or ()))]
    if latency_ms is not None:
        conditions.append(Condition("latency_ms", "<=", latency_ms))
    if conditions and found.groups:
        found = only(found, conditions)
        if not found.groups:
            asked = " and ".join(f"{c.of} {c.comparison} {c.bound:g}" for c in conditions)
            raise InputError(f"no student of {root.url} has {asked}.")
    found = sorted_by(found, sort)
    if as_json:
        print_json(found.as_json())
    elif as_csv:
        console.file.write(found.as_csv())
    elif smallest:
        for line in smallest_of(found):
            console.print(escape(line), highlight=False, soft_wrap=True)
    elif found.groups or found.unfinished:
        _print(found, root.url)
    else:
        raise InputError(f"{root.url} holds no student yet: `tintem run CONFIG.yaml` trains one.")


def _show(config: "RunConfig", id: str) -> None:
    from flows.config.sweep import DEFAULT_METRIC
    from flows.experiments.leaderboard import leaderboard as read
    from flows.experiments.record import PLOT, SWEEPS, entries_of, files_of
    from storage.root import open_root

    root = open_root(config.root)
    metric = DEFAULT_METRIC if config.sweep is None else config.sweep.metric
    students = [entry.student for entry in entries_of(root, id)]
    console.print()
    _print(read(root, metric, students), root.url)
    if PLOT in files_of(root, id):
        plot = escape(f"{root.url}/{SWEEPS}/{id}/{PLOT}")
        console.print(f"\n  plot  {plot}", highlight=False, soft_wrap=True)


def _next(config: "Path") -> None:
    console.print(
        f"\nTo bring one into force: [bold]tintem promote {escape(str(config))} ID[/bold]",
        highlight=False,
        soft_wrap=True,
    )


def _print(found: "Leaderboard", root: str) -> None:
    from flows.experiments.table import footnotes, tables

    # What reads a pipe or a file has no width that a line must fit in.
    wide = Console(width=WIDEST)
    fit = all(wide.measure(table).maximum <= console.width for table in tables(found))
    for table in tables(found, ids=fit or not console.is_terminal):
        (console if console.is_terminal else wide).print(table)
        console.print()
    for note in footnotes(found):
        console.print(f"[dim]{note}[/dim]", highlight=False, soft_wrap=True)
    for group in found.groups:
        for row in group.table.drop_nulls("export").head(1).iter_rows(named=True):
            place = escape(f"{root}/exports/{row['export']}/student.onnx")
            console.print(f"  {row['name']}  {place}", highlight=False, soft_wrap=True)
