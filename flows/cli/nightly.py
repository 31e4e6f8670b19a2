"""`tintem nightly`, `latest`, `promote` and `rollback`: which student is in force, and why."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from flows.cli.command import AsJson, ConfigPath, console, example, print_json, print_table, running

if TYPE_CHECKING:
    from pathlib import Path

    from storage.root import Root


app = typer.Typer()
Student = Annotated[
    str | None, typer.Option("--student", help="its name, where a night has several")
]


@app.command(epilog=example("tintem nightly tintem.yaml"))
def nightly(
    config: ConfigPath,
    force: Annotated[bool, typer.Option("--force", help="train whatever is new")] = False,
) -> None:
    """Embed what is new, score its drift, train again and promote where that is warranted."""
    with running(config, check=False) as run:
        from flows.nightly import nightly as hold
        from storage.root import open_root

        ended: dict[str, Any] = hold(run, force)
        _print_night(open_root(run.root), ended, config)


@app.command(epilog=example("tintem latest tintem.yaml"))
def latest(config: ConfigPath, as_json: AsJson = False) -> None:
    """List which students came into force, and which is now."""
    from dataclasses import asdict

    from flows.retraining.table import history_table
    from storage.registry import history

    root, lines = _lines(config, None)
    found = {line: history(root, line) for line in lines}
    if as_json:
        print_json({line: [asdict(entry) for entry in found[line]] for line in lines})
        return
    for line, entries in found.items():
        if entries:
            print_table(history_table(line, entries))
        else:
            console.print(f"{line}: nothing was promoted yet", highlight=False)


@app.command(epilog=example("tintem rollback tintem.yaml --to 3"))
def rollback(
    config: ConfigPath,
    student: Student = None,
    to: Annotated[
        int | None, typer.Option("--to", min=1, help="number of an entry, as `tintem latest` says")
    ] = None,
) -> None:
    """Return to the student that was in force before."""
    from flows.retraining.table import history_table
    from storage.registry import history, roll_back
    from tintem_core.errors import InputError

    root, lines = _lines(config, student)
    if len(lines) > 1:
        raise InputError(
            f"{config} has several students: say which one with --student, one of "
            f"{', '.join(lines.values())}."
        )
    (line,) = lines
    entry = roll_back(root, line, to)
    print_table(history_table(line, history(root, line)))
    _say(f"\n{entry.model.student} is in force: {escape(entry.why)}")
    for turned_away in entry.rejected:
        _say(f"{turned_away} does not come back by itself.")
    _say(f"  model   {escape(root.url)}/{entry.model.onnx}")


@app.command(epilog=example("tintem promote tintem.yaml ID"))
def promote(
    config: ConfigPath,
    student: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDENT]",
            help="id of a finished student, as `tintem status` says; none: the config's own",
        ),
    ] = None,
    line: Annotated[
        str | None,
        typer.Option("--line", help="whose place it takes, where a night has several students"),
    ] = None,
    force: Annotated[
        str | None,
        typer.Option("--force", metavar="WHY", help="whatever the gates say; WHY is recorded"),
    ] = None,
) -> None:
    """Bring a finished student into force, if the gates of a night let it."""
    from dataclasses import asdict

    from flows.config.load import load_config
    from flows.reporting.base import reporting_to
    from flows.reporting.terminal import TerminalReporter
    from flows.retraining.chosen import choose
    from flows.retraining.table import gates_table
    from tintem_core.errors import InputError

    if force is not None and not force.strip():
        raise InputError('--force: say why, as in --force "the gate\'s photos are mislabelled".')
    run = load_config(config)
    with reporting_to(TerminalReporter(console)):
        chosen = choose(run, student, line)
    if chosen.is_in_force:
        _say(f"{chosen.student} is in force already; nothing has changed.")
        return
    count = len(chosen.pipeline.indexed.data.keys("test"))
    gates = {"name": chosen.line.name, "gates": [asdict(verdict) for verdict in chosen.verdicts]}
    table = gates_table([gates], f"the {count:,} test photos of {run.data.name}")
    if table is None:
        _say("nightly.gates asks for nothing")
    else:
        print_table(table)
    entry = chosen.bring_into_force(force)
    _say(f"\n{entry.model.student} is in force as {chosen.line.id}: {escape(entry.why)}")
    _say(f"  model   {escape(chosen.pipeline.root.url)}/{entry.model.onnx}")
    if chosen.differing:
        _say(
            f"Nights train what {escape(str(config))} says, which differs from it in "
            f"{', '.join(chosen.differing)}."
        )


def _lines(path: "Path", student: str | None) -> "tuple[Root, dict[str, str]]":
    """Open the root of a run; return the lines of its students, or of one, with their names.

    Raises:
        InputError: if there is no student of that name.
    """
    from flows.config.load import load_config
    from flows.config.variants import retrained_students
    from storage.root import open_root
    from tintem_core.errors import InputError

    run = load_config(path)
    lines = {found.line: found.name for found in retrained_students(run)}
    if student is not None:
        wanted = {line: name for line, name in lines.items() if student in (name, line)}
        if not wanted:
            raise InputError(
                f"{path} has no student '{student}': its students are {', '.join(lines.values())}."
            )
        lines = wanted
    return open_root(run.root), lines


def _print_night(root: "Root", ended: dict[str, Any], config: "Path") -> None:
    from flows.retraining.table import gates_table
    from storage.artifacts import read_record

    _say(f"\n[bold]{escape(ended['outcome'].capitalize())}:[/bold] {escape(_sentence(ended))}")
    if ended["night"] is not None:
        record = read_record(root, "nights", ended["night"])
        lines = [] if record is None else list(record["lines"].values())
        table = gates_table(lines, "tonight's test photos")
        if table is not None:
            print_table(table)
    console.print()
    for line, entry in ended["latest"].items():
        _say(f"  latest  {escape(root.url)}/latest/{line}.json (entry {entry['entry']})")
        _say(f"  model   {escape(entry['onnx'])}")
    if ended["report"] is not None:
        _say(f"  report  {escape(ended['report'])}")
    if ended["outcome"] == "promoted" and any(e["entry"] > 1 for e in ended["latest"].values()):
        whose = " --student NAME" if len(ended["latest"]) > 1 else ""
        command = f"tintem rollback {escape(str(config))}{whose}"
        _say(f"\nTo return to the one before: [bold]{command}[/bold]")


def _sentence(ended: dict[str, Any]) -> str:
    """What the night says, without repeating what it is called."""
    said: str = ended["says"].removeprefix(f"{ended['outcome']}: ")
    return said.removeprefix(f"{ended['outcome']} ")


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
