"""`tintem report`: the page of a finished run, made again from what is stored."""

import webbrowser
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.command import ConfigPath, console

app = typer.Typer()


@app.command()
def report(
    config: ConfigPath,
    show: Annotated[bool, typer.Option("--open", help="open it in the browser")] = False,
) -> None:
    """Make the report of a finished run again, from what is stored."""
    from flows.config.load import load_config
    from flows.stages.report import REPORT, write_report
    from flows.stages.stored import stored_run

    run = stored_run(load_config(config))
    write_report(
        run.config,
        run.root,
        run.indexed,
        run.extracted,
        run.mapped,
        run.trained,
        run.evaluated,
        run.exported.record,
    )
    place = f"{run.exported.location}/{REPORT}"
    console.print(f"report  {escape(place)}", highlight=False, soft_wrap=True)
    path = run.root.path(f"exports/{run.exported.id}/{REPORT}")
    if show and path is not None:
        webbrowser.open(path.as_uri())
