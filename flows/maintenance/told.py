"""What `tintem verify` and `tintem repair` say."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from flows.maintenance.things import Checked
from flows.maintenance.verify import Repaired, Verdict


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Lay the verdicts out for a terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("cache", style="cyan", overflow="fold")
    for title in ("photos", "shards", "smallest cosine", "mean"):
        table.add_column(title, justify="right")
    table.add_column("")
    for verdict in verdicts:
        truth = verdict.truth
        table.add_row(
            verdict.id,
            f"{verdict.photos:,}",
            f"{verdict.shards:,}",
            *(("–", "–") if truth is None else (f"{truth.smallest:.6f}", f"{truth.mean:.6f}")),
            _state(verdict),
        )
    return table


def repair_sentences(repaired: Sequence[Repaired]) -> list[str]:
    """Return a sentence per cache that was repaired."""
    said = []
    for done in repaired:
        if done.unreadable:
            said.append(done.unreadable)
            continue
        shards = ", ".join(map(str, done.withdrawn))
        text = f"{done.id}: withdrew {len(done.withdrawn)} damaged shards ({shards})"
        if not done.withdrawn:
            text = f"{done.id}: no shard is damaged; metadata and row tables are in order"
        elif done.recomputed is None:
            text += "; `tintem repair CONFIG.yaml` or `tintem extract CONFIG.yaml`, with the "
            text += "config that made this cache, computes exactly them again"
        else:
            text += f", computed {done.recomputed} of them again"
        if done.missing:
            text += f"; {done.missing} photos are missing still: `tintem extract` adds them"
        said.append(text)
    return said


def _state(verdict: Verdict) -> str:
    if verdict.unreadable:
        return "[red]cannot be read"
    if verdict.problems:
        return "[red]damaged"
    if not verdict.sound:
        return "[red]not what the teacher gives"
    note = escape(verdict.note)
    if verdict.pending:
        state = f"[yellow]sound, {verdict.pending:,} shards to come[/]"
    elif verdict.truth is None and note:
        return f"[dim]{note}"
    else:
        state = "[green]sound[/]"
    return state + (f"[dim], {note}[/]" if note else "")


def findings(verdicts: Sequence[Verdict], target: str) -> list[str]:
    """Return a sentence per problem, and the cure."""
    said = []
    for verdict in verdicts:
        if verdict.unreadable:
            said.append(verdict.unreadable)
        for problem in verdict.problems:
            what = "metadata" if problem.shard is None else f"shard {problem.shard}"
            said.append(f"{what} of {verdict.id} is damaged: {problem.file}: {problem.reason}")
        if verdict.truth and not verdict.truth.holds:
            said.append(
                f"{verdict.truth.worst} has cosine {verdict.truth.smallest:.4f} to what the "
                f"teacher gives now, wanted {verdict.truth.wanted}: delete {verdict.id} to rebuild "
                "it."
            )
    if any(verdict.problems for verdict in verdicts):
        said.append(f"`tintem repair {target}` brings back what is damaged.")
    return said


def damages(checked: Sequence[Checked]) -> list[str]:
    """Return a sentence per damaged file of things that are no caches."""
    return [
        f"{thing.id} is damaged: {problem.file}: {problem.reason.removesuffix('.')}"
        + (f". {thing.cure}" if thing.cure else "")
        for thing in checked
        for problem in thing.problems
    ]


def summary(checked: Sequence[Checked]) -> str:
    """Say how many things that are no caches are as they were recorded."""
    sound = sum(thing.sound for thing in checked)
    return f"{sound:,} of {len(checked):,} other stored things are as they were recorded"
