"""`tintem doctor`: what this machine has, what it lacks, and what to do."""

from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.command import AsJson, console, example, print_json

app = typer.Typer()
_MARKS = {"good": "[green]good[/green]", "poor": "[yellow]poor[/yellow]", "bad": "[red]bad [/red]"}


@app.command(epilog=example("tintem doctor tintem.yaml"))
def doctor(
    root: Annotated[str, typer.Argument(help="a run's config, or a root")] = "tintem-data",
    as_json: AsJson = False,
) -> None:
    """Look at packages, processor, GPU, memory, disk or bucket, Prefect and the clock.

    Ends with 1 if something is bad.
    """
    from dataclasses import asdict
    from itertools import chain
    from pathlib import Path

    from flows.config.load import load_config
    from flows.orchestration.checkup import examine_prefect
    from flows.planning.doctor import examine
    from storage.root import open_root

    place = load_config(Path(root)).root if root.endswith((".yaml", ".yml")) else root
    found = []
    for finding in chain(examine(open_root(place)), examine_prefect()):
        found.append(finding)
        if not as_json:
            line = f"{_MARKS[finding.state]}  [bold]{finding.name}[/bold]  {escape(finding.says)}"
            console.print(line, highlight=False, soft_wrap=True)
            if finding.cure:
                console.print(f"      → {escape(finding.cure)}", highlight=False, soft_wrap=True)
    if as_json:
        print_json([asdict(finding) for finding in found])
    if any(finding.state == "bad" for finding in found):
        raise typer.Exit(1)
