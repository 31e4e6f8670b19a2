"""`tintem report`: the page of a finished run, made again from what is stored; or of two."""

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from flows.cli.command import ConfigPath, console

if TYPE_CHECKING:
    from flows.reporting.evidence import Evidence

app = typer.Typer()
_COMPARISON = "comparison.html"


@app.command()
def report(
    config: ConfigPath,
    other: Annotated[
        Path | None,
        typer.Argument(metavar="[OTHER.yaml]", help=f"compare with this run, in {_COMPARISON}"),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="open it in the browser")] = False,
) -> None:
    """Make the report of a finished run again, from what is stored; of two: compare them."""
    place, path = _write(config) if other is None else _compare(config, other)
    console.print(f"report  {escape(place)}", highlight=False, soft_wrap=True)
    if show and path is not None:
        webbrowser.open(path.absolute().as_uri())


def _write(config: Path) -> tuple[str, Path | None]:
    from flows.config.load import load_config
    from flows.stages.report import REPORT, write_report
    from flows.stages.stored import stored_run

    run = stored_run(load_config(config))
    write_report(run.finished, run.exported.record)
    return (
        f"{run.exported.location}/{REPORT}",
        run.root.path(f"exports/{run.exported.id}/{REPORT}"),
    )


def _compare(*configs: Path) -> tuple[str, Path]:
    from flows.reporting.comparison import comparison_page

    names = [path.stem for path in configs]
    if names[0] == names[1]:
        names = [str(path.with_suffix("")) for path in configs]
    page = comparison_page(names, *map(evidence_of, configs))
    path = Path(_COMPARISON)
    path.write_text(page, encoding="utf-8")
    return str(path.absolute()), path


def evidence_of(config: Path) -> "Evidence":
    from flows.config.load import load_config
    from flows.stages.report import gather
    from flows.stages.stored import stored_run

    run = stored_run(load_config(config))
    return gather(run.finished, run.exported.record)
