"""A stage of a run, or all of them, as the commands of that name start it."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from flows.cli.command import console, running

if TYPE_CHECKING:
    from flows.reporting.summary import Row
    from flows.stages.pipeline import Pipeline
    from flows.stages.results import Exported


def run_stage(name: str, path: Path) -> None:
    """Run a stage of a config with all before it, or all of them as distill.

    Raises:
        InputError: if the config is missing or does not describe a run that can start.
    """
    if name == "distill" and (done := _done(path)) is not None:
        photos = len(done.indexed.data.keys())
        console.print(
            f"Nothing to do: {done.trained.id} has learned from the {photos:,} photos of "
            f"{escape(done.config.data.name)}, and is measured and exported.",
            highlight=False,
            soft_wrap=True,
        )
        _print_summary(done.summary(), done.exported, path)
        return
    with running(path) as config:
        from flows import distill as flows
        from flows.stages.pipeline import Pipeline

        pipeline = Pipeline(config)
        with flows.sharing(pipeline):
            result = (flows.distill if name == "distill" else flows.STAGES[name])(config)
        if name in ("distill", "export"):
            _print_summary(pipeline.summary(), pipeline.exported, path)
        if isinstance(result, dict):
            stages = ", ".join(f"{stage} {seconds} s" for stage, seconds in result.items())
            console.print(f"[dim]{stages}[/dim]", soft_wrap=True)
        else:
            console.print(f"{name}: {escape(str(result))}", highlight=False, soft_wrap=True)


def _done(path: Path) -> "Pipeline | None":
    """Find a run that is done already: it needs no private server, nor models."""
    from flows.config.load import load_config
    from flows.config.settings import refuse_missing
    from flows.data.root import run_root
    from flows.orchestration.ephemeral import has_own_server

    refuse_missing(path)
    config = load_config(path)
    # A server of the user's own is told of every run. Where there is no export, torch is imported
    # while the private one starts.
    if has_own_server() or not run_root(config).folders("exports"):
        return None
    from flows.reporting.base import reporting_to
    from flows.reporting.terminal import TerminalReporter
    from flows.stages.stored import done_run

    with reporting_to(TerminalReporter(console)):
        return done_run(config)


def _print_summary(rows: list["Row"], exported: "Exported", config: Path) -> None:
    from flows.reporting.terminal import summary_table

    console.print()
    console.print(summary_table(rows))
    checked = exported.record["verification"]
    console.print(
        f"\nONNX Runtime gives the same embeddings as PyTorch on {checked['photos']} photos "
        f"(smallest cosine {checked['smallest_cosine']:.7f}).\n"
        "Square brackets: bootstrap 95% intervals over photos.\n",
        highlight=False,
        soft_wrap=True,
    )
    for label, name in (("model", "student.onnx"), ("card", "card.md"), ("report", "report.html")):
        console.print(
            f"  {label:<7} {escape(exported.location)}/{name}", highlight=False, soft_wrap=True
        )
    console.print(
        f"\nNext: [bold]tintem status {escape(str(config))}[/bold]", highlight=False, soft_wrap=True
    )
