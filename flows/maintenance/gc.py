"""Remove what nothing in force needs: shown first, and removed so that a kill leaves it whole."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.maintenance.leftovers import Look, Removable, leftovers
from flows.maintenance.status import open_existing
from storage.errors import HeldError
from storage.holders import hold_at_once, holders
from storage.root import Root
from tintem_core.errors import InputError

_DAY = 24 * 3600.0


@dataclass(frozen=True)
class Found:
    """Something that can go, or is gone."""

    kind: str
    name: str
    bytes: int
    why: str


@dataclass(frozen=True)
class Collected:
    """What was found, and what stays for the sake of a running process."""

    root: str
    removed: bool
    things: tuple[Found, ...]
    busy: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(thing.bytes for thing in self.things)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "bytes": self.bytes}


def collect_garbage(
    targets: Sequence[str],
    *,
    remove: bool = False,
    with_unused: bool = False,
    keep: int = 30,
    older_than_days: float = 1.0,
) -> Collected:
    """Find what can go, and remove it.

    Args:
        targets: a root, or configs of runs in one root.
        remove: False: only look.
        with_unused: also what nothing in force, no night that stays and no config names.
        keep: the last nights, and the last versions of each model, that stay.
        older_than_days: what others may still read stays if it was changed later than that.

    Raises:
        InputError: if there is no such root or config, or they are of several roots.
        CorruptRecordError: if a record that says what is needed is damaged.
    """
    root, configs = _opened(targets)
    if with_unused and not configs:
        raise InputError(
            f"--unused: {targets[0]} is a root, which does not say what is still wanted: give the "
            "configs whose results are to stay."
        )
    look = Look(root, keep, older_than_days * _DAY, with_unused)
    # Found at once: what goes must not change what counts as needed.
    candidates = list(leftovers(look))
    busy = []
    if with_unused and look.holders.live:
        held, holder = next(iter(look.holders.live.items()))
        busy.append(
            f"{holder} works on {held}: what --unused asks for stays until no process works here"
        )
    elif with_unused:
        # Only here: what configs name is found with torch.
        from flows.maintenance.unused import unused

        candidates += unused(look, configs)
    things: list[Found] = []
    seen: set[str] = set()
    for thing in candidates:
        sizes = _sizes(root, thing.paths())
        if not sizes:
            continue
        if thing.lease is not None and (who := look.holders.of(thing.lease)):
            busy.append(f"{who} works on {thing.lease}: {thing.name} stays")
            continue
        size = sum(bytes for path, bytes in sizes.items() if path not in seen)
        seen.update(sizes)
        things.append(Found(thing.kind, thing.name, size, thing.why))
        if remove and (problem := _remove(root, thing)):
            things.pop()
            busy.append(problem)
    return Collected(root.url, remove, tuple(things), tuple(busy))


def _opened(targets: Sequence[str]) -> tuple[Root, list[RunConfig]]:
    roots = [open_existing(target) for target in targets]
    others = {root.url for root in roots} - {roots[0].url}
    if others:
        raise InputError(
            f"{targets[0]} is of the root {roots[0].url}, but another is of {min(others)}: give "
            "configs of one root."
        )
    configs = [load_config(target) for target in targets if target.endswith((".yaml", ".yml"))]
    return roots[0], configs


def _remove(root: Root, thing: Removable) -> str | None:
    """Remove a thing; say why not, where a process has come meanwhile."""
    if thing.lease is None:
        _delete(root, thing.paths())
        return None
    try:
        with hold_at_once(root, thing.lease):
            # Below a cache machines of a cluster hold shards, when nobody holds the cache.
            below = {name for name in holders(root).live if name.startswith(f"{thing.lease}/")}
            if below:
                return f"another process works on {min(below)}: {thing.name} stays"
            _delete(root, thing.paths())
    except HeldError as error:
        return f"{str(error).removesuffix('.')}: {thing.name} stays"
    return None


def _delete(root: Root, paths: Sequence[str]) -> None:
    for path in paths:
        root.delete(path)


def _sizes(root: Root, paths: Sequence[str]) -> dict[str, int]:
    """Return the bytes of every object below some paths, begun ones too."""
    found: dict[str, int] = {}
    for path in paths:
        found |= root.sizes(path)
        folder, _, name = path.rpartition("/")
        if name.startswith("."):
            found |= {part: f.bytes for part, f in root.unfinished(folder).items() if part == path}
    return found


def collected_table(collected: Collected) -> Table:
    """Lay what can go, or is gone, out for a terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("kind")
    table.add_column("name", style="cyan", no_wrap=True, overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("why it went" if collected.removed else "why it can go", overflow="fold")
    for thing in collected.things:
        table.add_row(thing.kind, thing.name, decimal(thing.bytes), thing.why)
    return table


def collected_sentences(collected: Collected, words: Sequence[str]) -> Iterator[str]:
    """Return what is to be said after the table.

    Args:
        words: of the command that was given.
    """
    yield from collected.busy
    count = len(collected.things)
    what = f"{count:,} {'thing' if count == 1 else 'things'}, {decimal(collected.bytes)}"
    if not count:
        yield f"{collected.root}: nothing can go"
    elif collected.removed:
        yield f"removed: {what}"
    else:
        yield f"{what}; nothing was removed. To remove: {shlex.join([*words, '--yes'])}"
