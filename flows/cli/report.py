"""`tintem report`: the page of a finished run, made again from what is stored; or of two."""

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from flows.cli.command import ConfigPath, console, example

if TYPE_CHECKING:
    from flows.reporting.evidence import Evidence

app = typer.Typer()
_COMPARISON = "comparison.html"


@app.command(epilog=example("tintem report tintem.yaml --open", "tintem report tintem.yaml ID ID"))
def report(
    config: ConfigPath,
    others: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OTHER.yaml | STUDENT...]",
            help=f"compare with this run, or with a student of the same photos by its id, or two "
            f"of these with each other, in {_COMPARISON}",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="open it in the browser")] = False,
) -> None:
    """Make the report of a finished run again, from what is stored; of two students: compare."""
    place, path = _compare(config, others) if others else _write(config)
    console.print(f"report  {escape(place)}", highlight=False, soft_wrap=True)
    if show and path is not None:
        webbrowser.open(path.absolute().as_uri())


def _write(config: Path) -> tuple[str, Path | None]:
    from flows.config.load import load_config
    from flows.stages.report import write_report
    from flows.stages.results import REPORT
    from flows.stages.stored import stored_run

    run = stored_run(load_config(config))
    write_report(run.finished, run.exported.record)
    return (
        f"{run.exported.location}/{REPORT}",
        run.root.path(f"exports/{run.exported.id}/{REPORT}"),
    )


def _compare(config: Path, others: list[str]) -> tuple[str, Path]:
    from flows.reporting.comparison import comparison_page
    from tintem_core.errors import InputError

    if len(others) > 2:
        raise InputError(f"two students are compared, not {len(others)}: give one or two of them.")
    given = [str(config), *others][-2:]
    names = [Path(each).stem if _is_config(each) else each for each in given]
    if names[0] == names[1]:
        names = [str(Path(each).with_suffix("")) for each in given]
    first, second = (
        evidence_of(Path(each)) if _is_config(each) else evidence_of(config, each) for each in given
    )
    page = comparison_page(names, first, second)
    path = Path(_COMPARISON)
    path.write_text(page, encoding="utf-8")
    return str(path.absolute()), path


def _is_config(given: str) -> bool:
    return given.endswith((".yaml", ".yml"))


def evidence_of(config: Path, student: str | None = None) -> "Evidence":
    """Gather what is stored of a run's own student, or of another one of its photos."""
    from flows.config.load import load_config
    from flows.retraining.chosen import stored_student
    from flows.stages.report import gather
    from flows.stages.stored import stored_run

    found = load_config(config)
    run = stored_run(found) if student is None else stored_student(found, student)
    return gather(run.finished, run.exported.record)
