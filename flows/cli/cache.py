"""`tintem verify`, `tintem repair` and `tintem compact`: looking after caches and exports."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.command import AsJson, CacheId, Target, console, errors, print_json

app = typer.Typer()


@app.command()
def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG-ROOT-or-EXPORT", help="a run's config, a root, or an export's folder"
        ),
    ],
    cache: CacheId = None,
    as_json: AsJson = False,
) -> None:
    """Check every byte of the caches; with a config, run the teacher again on some views.

    The folder of an exported student is compared with its digests, and run on its test photos.
    """
    if _is_export(target):
        _verify_export(target, as_json=as_json)
        return
    from flows.maintenance import verify as checks

    verdicts = checks.verify(target, cache)
    if as_json:
        print_json([verdict.as_json() for verdict in verdicts])
    else:
        console.print(checks.verdict_table(verdicts))
        for finding in checks.findings(verdicts, target):
            errors.print(escape(finding), highlight=False, soft_wrap=True)
    if not all(verdict.sound for verdict in verdicts):
        raise typer.Exit(1)


def _verify_export(folder: str, *, as_json: bool) -> None:
    from tintem_core.errors import InputError
    from tintem_pixels.verify import NoExportError, check

    try:
        found = check(folder)
    except NoExportError as error:
        raise InputError(f"{error}.") from error
    if as_json:
        print_json({"sound": not found.problems, "found": found.lines, "problems": found.problems})
    else:
        _say(found.lines)
        for problem in found.problems:
            errors.print(escape(problem), highlight=False, soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)


def _is_export(target: str) -> bool:
    """Whether a target is the folder of an exported student, not a root or a config."""
    return (Path(target) / "record.json").is_file()


@app.command()
def repair(target: Target, cache: CacheId = None) -> None:
    """Withdraw damaged shards; with a config, compute exactly them again."""
    from flows.maintenance import verify as checks
    from flows.reporting.base import reporting_to
    from flows.reporting.terminal import TerminalReporter

    with reporting_to(TerminalReporter(console)):
        repaired = checks.repair(target, cache)
    _say(checks.repair_sentences(repaired))
    if any(done.unreadable for done in repaired):
        raise typer.Exit(1)


@app.command()
def compact(
    target: Target,
    cache: CacheId = None,
    fullness: Annotated[
        float,
        typer.Option(min=0, max=1, help="merge shards of which a smaller share is in use"),
    ] = 0.5,
    drop_removed: Annotated[
        bool,
        typer.Option("--drop-removed", help="leave rows of photos behind that are gone"),
    ] = False,
) -> None:
    """Merge the part-filled shards of caches; nothing is computed again.

    A training that reads such a cache meanwhile may stop: the same command continues it.
    """
    from flows.maintenance import compact as compaction
    from flows.reporting.base import reporting_to
    from flows.reporting.terminal import TerminalReporter

    with reporting_to(TerminalReporter(console)):
        done = compaction.compact(target, cache, fullness=fullness, drop_removed=drop_removed)
    _say(compaction.compaction_sentences(done))
    if any(each.unreadable for each in done):
        raise typer.Exit(1)


def _say(sentences: list[str]) -> None:
    for sentence in sentences:
        console.print(escape(sentence), highlight=False, soft_wrap=True)
