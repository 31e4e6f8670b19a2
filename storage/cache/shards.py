"""The shard files of one array: opened and checked at first touch, closed when there are too many.

Legend: N rows in use, B batch.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from storage.cache.commits import Commit
from storage.cache.gather import Gather, packed_places
from storage.cache.handle import CacheHandle
from storage.cache.region import Region
from storage.cache.zarr_format import ArraySpec, chunk_table, decode_shard, plain_size
from storage.copies import CopyFolder
from storage.errors import CorruptShardError, MissingObjectError
from storage.records import FileFact, checksum

Array = np.ndarray[Any, Any]
# Linux allows a process 65,530 mappings; half of them leaves room for everything else.
_MOST_MAPPINGS = 32_000
_PARALLEL = 8
# What belongs to one process and is made again in another.
_STAYS = {"_region", "_gather", "_ready", "_all_ready", "_used", "_clock"}


class ShardSet:
    """Random rows of one array, over some of its shards.

    ``rows_N`` are counted over ``commits``: the place of the shard times R, plus the row in it.

    Plain shards in a local folder are mapped where they lie. Remote and archived ones are fetched
    into ``copies`` and mapped there, or into memory; those least recently used are unmapped when
    the folder's limit is reached.
    """

    def __init__(
        self,
        cache: CacheHandle,
        array: ArraySpec,
        commits: Sequence[Commit],
        rows_N: Array,
        *,
        in_memory: bool,
        copies: CopyFolder | None,
    ) -> None:
        self._cache = cache
        self._array = array
        self._commits = list(commits)
        self._places_N = packed_places(rows_N, cache.layout, cache.spec.views)
        self._in_memory = in_memory
        self._copies = copies
        self._checked = np.zeros(len(self._commits), bool)
        self._open()

    def _open(self) -> None:
        self._ready = np.zeros(len(self._commits), bool)
        self._used = np.zeros(len(self._commits), np.int64)
        self._clock = 0
        self._all_ready = False
        layout, views = self._cache.layout, self._cache.spec.views
        self._sizes = np.array(
            [
                plain_size(self._array, layout, views, commit.rows)
                if layout.codec != "none"
                else self._fact(slot).bytes
                for slot, commit in enumerate(self._commits)
            ],
            np.int64,
        )
        self._region = Region(self._sizes, loaded=self._in_memory)
        self._gather = Gather(self._region, self._array, layout, views, len(self._commits))

    def take(self, rows_B: Array, views_B: Array) -> Array:
        """Rows by their place in ``rows_N``, and view, both in range: (B, items)."""
        if self._all_ready:
            return self._gather.take_any(self._places_N, rows_B, views_B)
        places_B = self._places_N[rows_B]
        slots_B = self._gather.slots_of(places_B)
        groups = list(self._fitting_groups(np.unique(slots_B)))
        if len(groups) == 1:
            self._touch(groups[0])
            return self._gather.take(places_B, views_B)
        out = np.empty((len(places_B), self._gather.items), self._array.dtype)
        for group in groups:
            self._touch(group)
            here = np.flatnonzero(np.isin(slots_B, group))
            out[here] = self._gather.take(places_B[here], views_B[here])
        return out

    def load_all(self) -> None:
        """Touch every shard now, as far as they fit."""
        for group in self._fitting_groups(np.arange(len(self._commits))):
            self._touch(group)

    def _fitting_groups(self, slots: Array) -> Iterator[Array]:
        """Shards in groups that can be open at once; at least one shard each."""
        limit = self._limit_bytes()
        group: list[int] = []
        held = 0
        for slot in slots.tolist():
            size = int(self._sizes[slot])
            if group and (held + size > limit or len(group) == _MOST_MAPPINGS):
                yield np.array(group)
                group, held = [], 0
            group.append(slot)
            held += size
        if group:
            yield np.array(group)

    def _limit_bytes(self) -> float:
        return float("inf") if self._copies is None else self._copies.limit_bytes

    def _touch(self, slots: Array) -> None:
        self._clock += 1
        self._used[slots] = self._clock
        wanted = slots[~self._ready[slots]]
        if not len(wanted):
            return
        self._make_room(slots)
        if len(wanted) == 1:
            self._open_shard(int(wanted[0]))
        else:
            with ThreadPoolExecutor(_PARALLEL) as pool:
                list(pool.map(self._open_shard, wanted.tolist()))
        self._all_ready = bool(self._ready.all())
        if self._all_ready:
            self._gather.keep_starts(self._places_N)

    def _make_room(self, slots: Array) -> None:
        """Unmap the least recently used shards until those wanted fit.

        Also those whose copies another reader has dropped: while they are mapped, the disk is full
        of them all the same.
        """
        will_open = self._ready.copy()
        will_open[slots] = True
        held, count = int(self._sizes[will_open].sum()), int(will_open.sum())
        spare = np.setdiff1d(np.flatnonzero(self._ready), slots)
        for slot in spare[np.argsort(self._used[spare])].tolist():
            fits = held <= self._limit_bytes() and count <= _MOST_MAPPINGS
            if fits and not self._is_dropped(slot):
                continue
            self._region.clear(slot)
            self._ready[slot] = self._all_ready = False
            held -= int(self._sizes[slot])
            count -= 1

    def _is_dropped(self, slot: int) -> bool:
        copies = self._copies
        return copies is not None and not copies.path(self._copy_name(slot)).exists()

    def _open_shard(self, slot: int) -> None:
        self._load(slot, None if self._copies is None else self._fetch(self._copies, slot))

    def _fetch(self, copies: CopyFolder, slot: int) -> bytes | memoryview | None:
        """The plain bytes of a remote or archived shard; None when a copy of them is there."""
        name = self._copy_name(slot)
        if copies.has(name, int(self._sizes[slot])):
            return None
        data = self._read(slot)
        copies.put(name, data)
        return data

    def _load(self, slot: int, data: bytes | memoryview | None) -> None:
        """Put a shard into the region and check it."""
        commit, size, where = self._commits[slot], int(self._sizes[slot]), self._where(slot)
        path = self._cache.root.path(f"{self._cache.base}/{self._path(slot)}")
        if self._copies is not None:
            path = self._copies.path(self._copy_name(slot))
        try:
            if self._in_memory or path is None or not self._region.can_map:
                self._region.load(slot, data or self._read(slot))
            else:
                if self._copies is None:
                    _refuse_size(path.stat().st_size, size, where)
                self._region.map_file(slot, path, size)
                if not self._checked[slot]:
                    self._region.read_ahead(slot, size)
        except FileNotFoundError as error:
            if self._copies is None:
                raise CorruptShardError(f"{where} is missing. Run `tintem repair`.") from error
            # Another process dropped the copy to keep its own limit.
            self._region.load(slot, data or self._read(slot))
        held = self._region.view(slot, size)
        is_plain = self._cache.layout.codec == "none"
        if is_plain and not self._checked[slot] and checksum(held) != self._fact(slot).crc32:
            raise CorruptShardError(f"{where}: the checksum differs. Run `tintem repair`.")
        layout, views = self._cache.layout, self._cache.spec.views
        self._gather.place(slot, chunk_table(self._array, layout, views, commit.rows, held, where))
        self._checked[slot] = self._ready[slot] = True

    def _read(self, slot: int) -> bytes | memoryview:
        """A shard's plain bytes, checked against its record."""
        where, fact = self._where(slot), self._fact(slot)
        try:
            data = self._cache.root.read(f"{self._cache.base}/{self._path(slot)}")
        except MissingObjectError as error:
            raise CorruptShardError(f"{where} is missing. Run `tintem repair`.") from error
        _refuse_size(len(data), fact.bytes, where)
        if not fact.matches(data):
            raise CorruptShardError(f"{where}: the checksum differs. Run `tintem repair`.")
        layout = self._cache.layout
        if layout.codec == "none":
            return data
        return decode_shard(self._array, layout, self._cache.spec.views, data)

    def _where(self, slot: int) -> str:
        shard = self._commits[slot].shard
        return f"Shard {shard} of {self._cache.url} ({self._path(slot)})"

    def _copy_name(self, slot: int) -> str:
        return f"{self._cache.url}/{self._path(slot)} {self._fact(slot)}"

    def _path(self, slot: int) -> str:
        return self._array.shard_path(self._commits[slot].shard)

    def _fact(self, slot: int) -> FileFact:
        return self._commits[slot].files[self._path(slot)]

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs to open the same files itself; no embeddings travel."""
        return {name: value for name, value in self.__dict__.items() if name not in _STAYS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _refuse_size(found: int, wanted: int, where: str) -> None:
    if found != wanted:
        raise CorruptShardError(
            f"{where} has {found} bytes instead of {wanted}. Run `tintem repair`."
        )
