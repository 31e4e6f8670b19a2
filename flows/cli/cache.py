"""`tintem verify`, `repair`, `compact` and `gc`: looking after what lies below a root."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from flows.cli.command import (
    AsJson,
    CacheId,
    Target,
    console,
    errors,
    example,
    print_json,
    print_table,
)

app = typer.Typer()


@app.command(epilog=example("tintem verify tintem.yaml", "tintem verify tintem-data/exports/ID"))
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
    """Check every byte that is stored; with a config, run the teacher again on some views.

    The folder of an exported student is compared with its digests, and run on its test photos.
    """
    if _is_export(target):
        _verify_export(target, as_json=as_json)
        return
    from flows.maintenance import told
    from flows.maintenance.status import open_existing
    from flows.maintenance.things import Checked, check_things
    from flows.maintenance.verify import Verdict
    from flows.maintenance.verify import verify as check_caches

    verdicts = check_caches(target, cache)
    things = check_things(open_existing(target)) if cache is None else []
    checked: list[Verdict | Checked] = [*verdicts, *things]
    if as_json:
        print_json([each.as_json() for each in checked])
    else:
        print_table(told.verdict_table(verdicts))
        if things:
            _say([told.summary(things)])
        for finding in (*told.findings(verdicts, target), *told.damages(things)):
            errors.print(escape(finding), highlight=False, soft_wrap=True)
    if not all(each.sound for each in checked):
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


@app.command(epilog=example("tintem repair tintem.yaml"))
def repair(target: Target, cache: CacheId = None) -> None:
    """Withdraw damaged shards; with a config, compute exactly them again."""
    from flows.maintenance import verify as checks
    from flows.maintenance.told import repair_sentences
    from flows.reporting.base import reporting_to
    from flows.reporting.terminal import TerminalReporter

    with reporting_to(TerminalReporter(console)):
        repaired = checks.repair(target, cache)
    _say(repair_sentences(repaired))
    if any(done.unreadable for done in repaired):
        raise typer.Exit(1)


@app.command(epilog=example("tintem compact tintem.yaml"))
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


@app.command(
    epilog=example("tintem gc tintem.yaml", "tintem gc tintem.yaml other.yaml --unused --yes")
)
def gc(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="CONFIG-or-ROOT...", help="a root, or configs of runs in one root"),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="remove; else only look")] = False,
    unused: Annotated[
        bool,
        typer.Option(
            "--unused",
            help="also what no version of a model that stays, no night and none of the configs "
            "given needs",
        ),
    ] = False,
    keep: Annotated[
        int, typer.Option(min=1, help="last nights, and last versions of each model, that stay")
    ] = 30,
    older_than: Annotated[
        float,
        typer.Option(
            min=0, metavar="DAYS", help="what others may read stays if it is younger, in days"
        ),
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Remove what is of no use any more; without --yes, say what that is.

    What a version of a model in force, a rollback, the config or a running process needs stays.
    """
    from flows.maintenance import gc as garbage

    collected = garbage.collect_garbage(
        targets, remove=yes, with_unused=unused, keep=keep, older_than_days=older_than
    )
    if as_json:
        print_json(collected.as_json())
        return
    if collected.things:
        print_table(garbage.collected_table(collected))
    _say(list(garbage.collected_sentences(collected, ["tintem", *sys.argv[1:]])))


def _say(sentences: list[str]) -> None:
    for sentence in sentences:
        console.print(escape(sentence), highlight=False, soft_wrap=True)
