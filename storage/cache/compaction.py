"""Many part-filled shards become few full ones, after many small appends.

New shards are written and recorded first; one new generation of the row table then switches every
reader that opens the cache to them; the old shards go last. A crash at any moment leaves either
the old state or the new one, and at worst files of nobody, which `repair` removes.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from storage.cache import rows
from storage.cache.description import complete_copies, fit_metadata
from storage.cache.handle import CacheHandle
from storage.cache.reader import FeatureReader
from storage.cache.rows import Allocation
from storage.cache.spec import SCALE_SUFFIX
from storage.cache.state import State
from storage.cache.writer import commit_shard, withdraw
from storage.cache.zarr_format import arrays_of

FULLNESS = 0.5
# Fewer shards to save are not worth a word.
_WORTH_A_WORD = 16
_MANY_GENERATIONS = 32


@dataclass(frozen=True)
class Compaction:
    """What a compaction did."""

    moved_rows: int
    shards_before: int
    shards_after: int


@dataclass(frozen=True)
class Fragmentation:
    """Into how many shards a cache is cut, and how many a compaction would leave."""

    shards: int
    compacted: int

    @property
    def is_high(self) -> bool:
        """Whether a compaction at least halves the shards, and saves more than a few."""
        return self.shards - self.compacted >= max(_WORTH_A_WORD, self.compacted)


def fragmentation(
    shards: Collection[Allocation], rows_per_shard: int, fullness: float = FULLNESS
) -> Fragmentation:
    """Count from what was given out alone: images that are gone count as if they were there."""
    small = [shard.rows for shard in shards if shard.rows < fullness * rows_per_shard]
    merged = -(-sum(small) // rows_per_shard)
    return Fragmentation(len(shards), len(shards) - max(0, len(small) - merged))


def compact(
    cache: CacheHandle,
    *,
    fullness: float = FULLNESS,
    keep: pl.Series | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Compaction:
    """Rewrite the shards of which less than a share of rows is in use.

    Shards that no plan will ever ask for are forgotten, and the row tables become one. Readers
    opened before keep what they have already touched; open them again afterwards.

    Args:
        fullness: rewrite shards in which fewer rows than this share of a full shard are used.
        keep: images still wanted; others are left behind in the shards that are rewritten.
        progress: called with (rows moved, rows to move).
    """
    complete_copies(cache)
    state = State(cache)
    before = len(state.rows.shards)
    moving = _rows_to_move(cache, state, fullness, keep)
    size = cache.layout.rows_per_shard
    sparse = set((moving["row"] // size).unique().to_list())
    if len(sparse) <= -(-moving.height // size):
        moving, sparse = moving.clear(), set()
    old = sparse | _unused(cache, state, keep) | _abandoned(state)
    if not old and state.rows.generations <= _MANY_GENERATIONS:
        return Compaction(0, before, before)
    new = _reserve(cache, moving["key"]) if moving.height else []
    for moved in _copy_rows(cache, state, moving, new):
        if progress is not None:
            progress(moved, moving.height)
    _switch(cache, moving["key"], new, old)
    for shard in old:
        withdraw(cache, shard)
    return Compaction(moving.height, before, before - len(old) + len(new))


def _used_rows(cache: CacheHandle, state: State, keep: pl.Series | None) -> pl.DataFrame:
    """(key, row, shard) of the rows in finished shards that are current and wanted."""
    used = state.done_rows()
    if keep is not None:
        used = used.join(pl.DataFrame({"key": keep}).unique(), on="key", how="semi")
    return used.with_columns(shard=pl.col("row") // cache.layout.rows_per_shard)


def _rows_to_move(
    cache: CacheHandle, state: State, fullness: float, keep: pl.Series | None
) -> pl.DataFrame:
    limit = fullness * cache.layout.rows_per_shard
    used = _used_rows(cache, state, keep)
    return used.filter(pl.len().over("shard") < limit).sort("row").select("key", "row")


def _unused(cache: CacheHandle, state: State, keep: pl.Series | None) -> set[int]:
    """Finished shards of which no row is used."""
    used = _used_rows(cache, state, keep)["shard"].unique().to_list()
    return state.sound.keys() - set(used)


def _abandoned(state: State) -> set[int]:
    """Shards that are not done and that no plan will ask for again."""
    return state.rows.shards.keys() - state.sound.keys() - state.resumable().keys()


def _reserve(cache: CacheHandle, keys: pl.Series) -> list[Allocation]:
    """Take shard numbers that no planner will give out."""
    while True:
        table = rows.load(cache.root, cache.base)
        shards = rows.allocate(keys, table.next_shard, cache.layout.rows_per_shard)
        empty, number = rows.empty_table(), table.next_generation
        if rows.publish(cache.root, cache.base, number, "reserve", empty, shards):
            return shards


def _copy_rows(
    cache: CacheHandle, state: State, moving: pl.DataFrame, new: list[Allocation]
) -> Iterator[int]:
    """Write the new shards from the stored values of the old ones, unchanged; yield rows done."""
    if not new:
        return
    places, start = moving["row"].to_numpy(), 0
    readers = {kind: FeatureReader(cache, kind, places, state.sound) for kind in cache.spec.kinds}
    for shard in new:
        stored: dict[str, np.ndarray[Any, Any]] = {}
        for kind, reader in readers.items():
            stored |= _stored(reader, kind, np.arange(start, start + shard.rows))
        keys = moving["key"].slice(start, shard.rows).to_list()
        arrays = [(array, stored[array.name]) for array in arrays_of(cache.spec)]
        commit_shard(cache, shard.shard, keys, arrays)
        start += shard.rows
        yield start


def _stored(
    reader: FeatureReader, kind: str, places: np.ndarray[Any, Any]
) -> dict[str, np.ndarray[Any, Any]]:
    """All views of some rows as they are stored, (V, rows, ...), per array name."""
    taken = [reader.take_stored(np.full(len(places), v), places) for v in range(reader.views)]
    values = {kind: np.stack([part for part, _ in taken])}
    scales = [scale for _, scale in taken if scale is not None]
    return values | ({kind + SCALE_SUFFIX: np.stack(scales)} if scales else {})


def _switch(cache: CacheHandle, keys: pl.Series, new: list[Allocation], old: set[int]) -> None:
    """Make the new shards count instead of the old ones, whatever was appended meanwhile."""
    size = cache.layout.rows_per_shard
    while True:
        table = rows.load(cache.root, cache.base)
        stay = table.assigned.filter(~(pl.col("row") // size).is_in(list(old)))
        moved = rows.table_of(keys, new[0].shard, size) if new else rows.empty_table()
        shards = [a for shard, a in table.shards.items() if shard not in old] + new
        number, merged = table.next_generation, pl.concat([stay, moved])
        if rows.publish(cache.root, cache.base, number, "switch", merged, shards):
            break
    fit_metadata(cache, table.next_shard)
    rows.forget_before(cache.root, cache.base, number)
