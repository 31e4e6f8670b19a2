"""The commands of `tintem`: each call reads a config, and hands it to the flows."""

import logging
import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli import cache, doctor, embed, nightly, report, serve, server, sweep
from flows.cli.command import AsJson, ConfigPath, console, errors, example, print_json, print_table
from flows.cli.interrupt import Interruption
from flows.cli.stages import run_stage

app = typer.Typer(
    name="tintem",
    help="Compress large vision models into small ones that stay faithful to them.",
    epilog=example("tintem quickstart", "tintem init path/to/photos"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"tintem {version('tintem')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="print the version, and end"
        ),
    ] = False,
) -> None:
    """Compress large vision models into small ones that stay faithful to them."""


app.add_typer(cache.app)


app.add_typer(doctor.app)


app.add_typer(embed.app)


app.add_typer(serve.app)


app.add_typer(sweep.app)


app.add_typer(nightly.app)


app.add_typer(report.app)


app.add_typer(server.app)


@app.command(epilog=example("tintem quickstart"))
def quickstart(
    folder: Annotated[Path, typer.Argument(help="where everything goes")] = Path(
        "tintem-quickstart"
    ),
) -> None:
    """Distil a real ImageNet teacher on real photos of solar cells, in a few minutes."""
    from flows.config.demo import prepare
    from tintem_core.errors import InputError

    if folder.is_file():
        raise InputError(f"{folder} is a file: give a folder, or none for ./tintem-quickstart.")
    folder.mkdir(parents=True, exist_ok=True)
    config = prepare(folder)
    console.print(f"The run is described in [bold]{escape(str(config))}[/bold]", highlight=False)
    run(config)


@app.command(epilog=example("tintem init path/to/photos"))
def init(
    images: Annotated[
        str,
        typer.Argument(help="folder of photos, table, tar or Parquet files; or s3://bucket/folder"),
    ],
    config: Annotated[Path, typer.Option("--config", help="file to write")] = Path("tintem.yaml"),
    full: Annotated[
        bool, typer.Option("--full", help="every setting, with its default and what it means")
    ] = False,
) -> None:
    """Look at some photos, and write a commented config for them."""
    from flows.config.init import write_config

    for word, found in write_config(images, config, full=full).lines():
        console.print(f"[bold]{word}[/bold]  {escape(found)}", highlight=False, soft_wrap=True)
    name = escape(str(config))
    console.print(
        f"wrote {name}; look it over, then: [bold]tintem run {name}",
        highlight=False,
        soft_wrap=True,
    )


@app.command(epilog=example("tintem schema > tintem.schema.json"))
def schema() -> None:
    """Print the JSON schema of a config, for editors."""
    from flows.config.reference import schema as made

    print_json(made())


@app.command(epilog=example("tintem plan tintem.yaml"))
def plan(config: ConfigPath, as_json: AsJson = False) -> None:
    """Say what a run will do and take, before anything starts."""
    from flows.config.load import load_config
    from flows.config.settings import refuse_missing

    # Said before torch is imported.
    refuse_missing(config)
    from flows.planning import plan as plans
    from flows.planning.table import plan_tables

    found = plans.plan(load_config(config))
    if as_json:
        print_json(found.as_json())
    else:
        for table in plan_tables(found):
            console.print(table)
            console.print()
    plans.refuse_what_cannot_fit(found)


@app.command(epilog=example("tintem run tintem.yaml"))
def run(config: ConfigPath) -> None:
    """Run all stages: index, extract, map, train, evaluate, export."""
    run_stage("distill", config)


@app.command(epilog=example("tintem extract tintem.yaml"))
def extract(config: ConfigPath) -> None:
    """Embed all views with the teacher."""
    run_stage("extract", config)


@app.command("import-latents", epilog=example("tintem import-latents tintem.yaml"))
def import_latents(config: ConfigPath) -> None:
    """Match the embeddings in teacher.latents with the photos, and store them (as extract does)."""
    from flows.config.load import load_config
    from tintem_core.errors import InputError

    if config.is_file() and load_config(config).teacher.latents is None:
        raise InputError(
            f"{config} names no teacher.latents: write there the file that holds your embeddings."
        )
    run_stage("extract", config)


@app.command("map", epilog=example("tintem map tintem.yaml"))
def map_(config: ConfigPath) -> None:
    """Fit the mapping (and what comes before it)."""
    run_stage("map", config)


@app.command(epilog=example("tintem train tintem.yaml"))
def train(config: ConfigPath) -> None:
    """Train the student (and what comes before it)."""
    run_stage("train", config)


@app.command(epilog=example("tintem evaluate tintem.yaml"))
def evaluate(config: ConfigPath) -> None:
    """Measure the student (and what comes before it)."""
    run_stage("evaluate", config)


@app.command(epilog=example("tintem export tintem.yaml"))
def export(config: ConfigPath) -> None:
    """Publish the student as ONNX (and what comes before it)."""
    run_stage("export", config)


@app.command(epilog=example("tintem status tintem.yaml"))
def status(
    root: Annotated[str, typer.Argument(help="a run's root, or its config")] = "tintem-data",
    as_json: AsJson = False,
) -> None:
    """List what exists: caches, mappings, students, evaluations, exports, who is in force."""
    from flows.maintenance.status import collect, hints, open_existing, tables

    things = collect(root)
    if as_json:
        print_json(things)
        return
    for table in tables(things):
        print_table(table)
    for export in things["exports"]:
        if export["progress"] < 1:
            continue
        place = f"{open_existing(root).url}/exports/{export['id']}/student.onnx"
        console.print(f"  model  {escape(place)}", highlight=False, soft_wrap=True)
    for hint in hints(things):
        console.print(escape(hint), highlight=False, soft_wrap=True)


def _quiet_libraries() -> None:
    """Silence what a user cannot act on."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
    warnings.filterwarnings("ignore")
    for name in ("huggingface_hub", "httpx", "prefect", "timm", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


_NO_KEY = (
    "the Prefect server asks for a key: set PREFECT_API_AUTH_STRING to what it was started with as "
    "PREFECT_SERVER_API_AUTH_STRING (docs/production.md)."
)


def run_command(interruption: Interruption) -> None:
    """Run the command line; errors made on purpose become one sentence and an exit code."""
    _quiet_libraries()
    try:
        try:
            app()
        finally:
            interruption.leave()
    except Exception as error:
        code, sentence = _exit_code(error), str(error)
        if _is_refused_by_prefect(error):
            code, sentence = 2, _NO_KEY
        if code is None:
            raise
        errors.print(f"[red]Error:[/red] {escape(sentence)}", highlight=False, soft_wrap=True)
        sys.exit(code)


def _is_refused_by_prefect(error: Exception) -> bool:
    response = getattr(error, "response", None)
    is_prefects = type(error).__module__.startswith("prefect.")
    return is_prefects and getattr(response, "status_code", None) in (401, 403)


def _exit_code(error: Exception) -> int | None:
    """2 for a user's mistake, 1 for other errors raised on purpose, None for a bug."""
    from storage.errors import StorageError, StorageInputError
    from tintem_core.errors import InputError, TintemError

    if isinstance(error, StorageInputError | InputError):
        return 2
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
        # A place that cannot be written; the system's own words name it.
        return 2
    if isinstance(error, TintemError | StorageError):
        return 1
    return None
