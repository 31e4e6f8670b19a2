"""What lies below a root and is of no use to anybody: interrupted work, and what is superseded."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from flows.data.progress import checkpoint_folder, progress_path
from flows.maintenance.in_force import Standing, texts
from storage.artifacts import RECORD, read_record
from storage.cache import FeatureCache
from storage.errors import CacheFormatError, CorruptError, MissingObjectError
from storage.holders import Holders, holders
from storage.images import manifest_records
from storage.root import ObjectFacts, Root

# A part or a table is named by a record, or renamed, within moments.
_UNNAMED_SECONDS = 3600.0


@dataclass(frozen=True)
class Removable:
    """Something that can go."""

    kind: str
    name: str
    """Its path below the root."""
    why: str
    paths: Callable[[], Sequence[str]]
    """What goes, in this order; found again when it is removed, and then maybe nothing."""
    lease: str | None = None
    """Held while it is removed; None: nobody writes there."""


@dataclass(frozen=True)
class Look:
    """What is looked at, and how carefully."""

    root: Root
    keep: int
    """The last nights, and the last versions of a model, that stay."""
    older_than: float
    """Seconds; what others may still read goes only if it was not changed for so long."""
    with_unused: bool = False

    @cached_property
    def holders(self) -> Holders:
        return holders(self.root)

    @cached_property
    def standing(self) -> Standing:
        return Standing.of(self.root, self.keep)

    def is_settled(self, fact: ObjectFacts) -> bool:
        return _age(fact) >= self.older_than


def leftovers(look: Look) -> Iterator[Removable]:
    """Find what is of no use whatever anybody asks for."""
    for find in (_leases, _parts, _checkpoints, _half_written, _cache_files, _manifests, _nights):
        yield from find(look)


def _leases(look: Look) -> Iterator[Removable]:
    for name, paths in look.holders.ended.items():
        yield Removable("lease", f"leases/{name}", "its process has ended", partial(list, paths))


def _parts(look: Look) -> Iterator[Removable]:
    by_room: dict[str, list[str]] = {}
    for path, fact in look.root.unfinished().items():
        if _age(fact) >= _UNNAMED_SECONDS:
            by_room.setdefault(path.split("/")[0], []).append(path)
    for room, paths in by_room.items():
        why = "files that killed processes had begun to write"
        yield Removable("part files", room, why, partial(list, paths))


def _checkpoints(look: Look) -> Iterator[Removable]:
    def paths(id: str) -> list[str]:
        if read_record(look.root, "students", id) is None:
            return []
        return [
            path for path in (checkpoint_folder(id), progress_path(id)) if look.root.exists(path)
        ]

    for id in look.root.folders("students"):
        lease, why = f"students/{id}", "the training is finished"
        yield Removable("checkpoints", checkpoint_folder(id), why, partial(paths, id), lease)


def _half_written(look: Look) -> Iterator[Removable]:
    def paths(kind: str, id: str) -> list[str]:
        place = f"{kind}/{id}"
        is_resumable = kind == "students" and look.root.exists(checkpoint_folder(id))
        return [] if is_resumable or look.root.exists(f"{place}/{RECORD}") else [place]

    for kind in ("mappings", "students", "evaluations", "exports", "sweeps", "nights"):
        for id in look.root.folders(kind):
            lease = _night_lease(id) if kind == "nights" else f"{kind}/{id}"
            why = "its record was never written: whoever asks for it makes it again"
            yield Removable("half-written", f"{kind}/{id}", why, partial(paths, kind, id), lease)


def _cache_files(look: Look) -> Iterator[Removable]:
    def paths(id: str) -> list[str]:
        try:
            return FeatureCache.open(look.root, id).leftovers()
        except MissingObjectError:
            # What comes after the rows and the record when a cache is removed.
            return [f"caches/{id}"]
        except (CorruptError, CacheFormatError):
            return []

    for id in look.root.folders("caches"):
        why = "files that no row table names, of a plan or a compaction that was killed"
        yield Removable("shards", f"caches/{id}", why, partial(paths, id), f"caches/{id}")


def _manifests(look: Look) -> Iterator[Removable]:
    records = manifest_records(look.root)
    facts = look.root.facts("manifests")

    def unnamed(id: str, tables: list[str]) -> list[str]:
        record = look.root.read_or_none(f"manifests/{id}.json") or b""
        return [table for table in tables if table.rpartition("/")[2].encode() not in record]

    def unchanged(tables: list[str], path: str) -> list[str]:
        is_same = look.root.facts(path) == {path: facts[path]} and not holders(look.root).live
        return [path, *tables] if is_same else []

    for id, tables in _unnamed_tables(records, facts).items():
        why = "tables that no record names, of an indexing that was killed"
        yield Removable("manifest tables", f"manifests/{id}", why, partial(unnamed, id, tables))
    if look.holders.live:
        # Parts of a run are handed the id of a list of photos, and hold no lease for it.
        return
    newest: dict[str, tuple[str, str]] = {}
    for id, record in records.items():
        if record is not None:
            made = str(record["created"]), id
            newest[record["source"]["name"]] = max(newest.get(record["source"]["name"], made), made)
    needed = {id for _, id in newest.values()} | look.standing.photo_lists(look.with_unused)
    for id, record in records.items():
        path = f"manifests/{id}.json"
        fact = facts.get(path)
        if record is None or fact is None or id in needed or not look.is_settled(fact):
            continue
        # The oldest records do not name their tables.
        named = [table.get("file") for table in record.get("tables", {}).values()]
        tables = [f"manifests/{name}" for name in named if name is not None]
        why = "a newer list of these photos is there, and no version of a model names this one"
        yield Removable("manifest", f"manifests/{id}", why, partial(unchanged, tables, path))


def _unnamed_tables(
    records: dict[str, dict[str, Any] | None], facts: dict[str, ObjectFacts]
) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    named = {f"manifests/{text}" for record in records.values() for text in texts(record)}
    for path, fact in facts.items():
        id = path.removeprefix("manifests/").split(".")[0]
        record = records.get(id, {})
        is_known = record is None or (record and "tables" not in record)
        is_old = path.endswith(".parquet") and _age(fact) >= _UNNAMED_SECONDS
        if is_old and not is_known and path not in named:
            found.setdefault(id, []).append(path)
    return found


def _nights(look: Look) -> Iterator[Removable]:
    for id in look.standing.past_nights:
        place = f"nights/{id}"
        paths = [f"{place}/{RECORD}", place]
        why = f"{look.keep} newer nights are there, and nothing that a night decides needs it"
        yield Removable("night", place, why, partial(list, paths), _night_lease(id))


def _night_lease(id: str) -> str:
    """Return what a night holds: its id is the name of the data, and a digest."""
    return f"nights/{id.rpartition('-')[0]}"


def _age(fact: ObjectFacts) -> float:
    return time.time() - fact.modified / 1e9
