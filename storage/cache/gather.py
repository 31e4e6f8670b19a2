"""From rows and views to the bytes of a region, and all of them in one go.

Legend: N rows in use, V views, K inner chunks per shard, B batch.
"""

from typing import Any

import numpy as np

from storage.cache.region import Region
from storage.cache.spec import Layout
from storage.cache.zarr_format import ArraySpec

Array = np.ndarray[Any, Any]
# Up to this size the beginning of every row and view is kept, else it is computed for each batch.
_MOST_DIRECT_BYTES = 64 * 2**20
_WITHIN_BITS = 24
_WITHIN_MASK = (1 << _WITHIN_BITS) - 1


def packed_places(rows_N: Array, layout: Layout, views: int) -> Array:
    """int64: the cell of a row's chunk for view 0, and below it the row in that chunk.

    One number per row, because each look into a long array costs a wait for memory.
    """
    slots_N, locals_N = np.divmod(rows_N, layout.rows_per_shard)
    chunks_N, within_N = np.divmod(locals_N, layout.rows_per_chunk)
    chunks = layout.rows_per_shard // layout.rows_per_chunk
    packed_N: Array = (slots_N * (views * chunks) + chunks_N) << _WITHIN_BITS | within_N
    return packed_N


class Gather:
    """The rows of one array in a region of shard files.

    Attributes:
        items: numbers per row and view.
    """

    def __init__(
        self, region: Region, array: ArraySpec, layout: Layout, views: int, shards: int
    ) -> None:
        self.items = int(np.prod(array.shape, dtype=np.int64))
        self._region = region
        self._dtype = np.dtype(array.dtype)
        self._views = views
        self._chunks = layout.rows_per_shard // layout.rows_per_chunk
        self._table = np.full((shards, views, self._chunks), -1, np.int64)
        self._starts = self._table.reshape(-1)
        self._direct: Array | None = None
        row_bytes = self.items * self._dtype.itemsize
        places = region.bytes.size - row_bytes
        # A row can start at any item, because each inner chunk ends with a checksum. So there is
        # one window per item, each an opaque element as long as a row: indexing them copies whole
        # rows in NumPy's fastest path.
        self._windows = np.lib.stride_tricks.as_strided(
            region.bytes[:row_bytes].view(f"V{row_bytes}"),
            (places // self._dtype.itemsize + 1,),
            (self._dtype.itemsize,),
            writeable=False,
        )

    def place(self, slot: int, offsets_VK: Array) -> None:
        """Note where the chunks of a shard begin in its file; negative: it has no such chunk."""
        starts_VK = (int(self._region.starts[slot]) + offsets_VK) // self._dtype.itemsize
        self._table[slot] = np.where(offsets_VK < 0, -1, starts_VK)
        self._direct = None

    def slots_of(self, places_B: Array) -> Array:
        """The shards that hold some places."""
        slots_B: Array = (places_B >> _WITHIN_BITS) // (self._views * self._chunks)
        return slots_B

    def keep_starts(self, places_N: Array) -> None:
        """Keep where every row begins, unless that takes too much memory; all shards are there."""
        if self._views * places_N.nbytes <= _MOST_DIRECT_BYTES:
            views_V1 = np.arange(self._views)[:, None]
            self._direct = self._starts_of(places_N, views_V1)

    def take_any(self, places_N: Array, rows_B: Array, views_B: Array) -> Array:
        """(B, items) of rows and views, where the shards of all rows are there."""
        if self._direct is not None:
            return self._at(self._direct[views_B, rows_B])
        return self.take(places_N[rows_B], views_B)

    def take(self, places_B: Array, views_B: Array) -> Array:
        """(B, items) of places and views."""
        return self._at(self._starts_of(places_B, views_B))

    def _starts_of(self, places_B: Array, views_B: Array) -> Array:
        """The window at which each row begins."""
        starts_B: Array = self._starts[(places_B >> _WITHIN_BITS) + views_B * self._chunks]
        starts_B += (places_B & _WITHIN_MASK) * self.items
        return starts_B

    def _at(self, starts_B: Array) -> Array:
        rows_B: Array = self._windows[starts_B].view(self._dtype)
        return rows_B.reshape(len(starts_B), self.items)
