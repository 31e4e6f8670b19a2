"""Random access to the embeddings of a cache.

Legend: V views, N images of this reader, B batch, S shards in use, R rows of one shard.
"""

from typing import Any

import numpy as np

from storage.cache.commits import Commit
from storage.cache.handle import CacheHandle
from storage.cache.shards import ShardSet
from storage.cache.spec import SCALE_SUFFIX
from storage.cache.zarr_format import arrays_of, plain_size
from storage.copies import CopyFolder
from storage.errors import StorageInputError

Array = np.ndarray[Any, Any]
_ALL_BATCH = 4096
_CACHED_BYTES = 2**18


class FeatureReader:
    """The rows of some images, in the order they were asked for.

    Local shards are memory-mapped; each is checked against its recorded checksum when it is first
    touched. A reader can be pickled, or inherited by a forked worker, without copying embeddings.

    Attributes:
        views: V.
        bytes: of all shards in use, uncompressed.
        copies: the folder that they are copied into; None where they are read in place, or held.

    Raises:
        StorageInputError: if that folder may hold less than one shard.
    """

    def __init__(
        self,
        cache: CacheHandle,
        kind: str,
        rows: Array,
        commits: dict[int, Commit],
        *,
        memory_bytes: int | None = None,
        copies: CopyFolder | None = None,
    ) -> None:
        layout = cache.layout
        shards, slots = _numbered(rows // layout.rows_per_shard)
        self._kind = cache.spec.kinds[kind]
        self.views = cache.spec.views
        arrays = [array for array in arrays_of(cache.spec) if array.kind == kind]
        rows_N = slots * layout.rows_per_shard + rows % layout.rows_per_shard
        self._count = len(rows_N)
        used = [commits[int(shard)] for shard in shards]
        sizes = [
            plain_size(array, layout, self.views, commit.rows)
            for array in arrays
            for commit in used
        ]
        self.bytes = sum(sizes)
        if memory_bytes is None:
            memory_bytes = cache.root.reading.memory_bytes
        in_memory = self.bytes <= memory_bytes
        if in_memory or cache.is_read_in_place:
            copies = None
        elif copies is None:
            copies = CopyFolder.of(cache.root.reading)
        self.copies = copies
        if copies is not None and max(sizes, default=0) > copies.limit_bytes:
            raise StorageInputError(
                f"A shard of {cache.id} takes {max(sizes)} bytes, the folder of copies "
                f"{copies.folder} may hold {copies.limit_bytes}. Give it more."
            )
        self._sets = {
            array.name: ShardSet(cache, array, used, rows_N, in_memory=in_memory, copies=copies)
            for array in arrays
        }
        self._values = self._sets[kind]
        self._scales = self._sets.get(kind + SCALE_SUFFIX)

    def __len__(self) -> int:
        return self._count

    @property
    def shape(self) -> tuple[int, ...]:
        """Per view and image."""
        return self._kind.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `take` returns: as stored, float32 for int8 caches."""
        return np.dtype("float32" if self._kind.dtype == "int8" else self._kind.dtype)

    def take(self, views_B: Array, rows_B: Array) -> Array:
        """One embedding per pair of view and row.

        Args:
            views_B: integers in [0, V).
            rows_B: integers in [0, N), places in the keys the reader was asked for.

        Returns:
            (B, *shape) in `dtype`, a fresh array.

        Raises:
            IndexError: if a view or row is out of range.
            CorruptShardError: if a shard touched for the first time differs from its record.
        """
        views_B, rows_B = self._in_range(views_B, rows_B)
        if self._scales is None:
            return self._values.take(rows_B, views_B).reshape(len(rows_B), *self.shape)
        scales_B1 = self._scales.take(rows_B, views_B)
        out = np.empty((len(rows_B), self._kind.items), np.float32)
        step = max(1, _CACHED_BYTES // self._kind.items)
        # A few rows at a time: their int8 values are still in the processor's cache when scaled.
        for i in range(0, len(rows_B), step):
            part = slice(i, i + step)
            values = self._values.take(rows_B[part], views_B[part])
            np.multiply(values, scales_B1[part], out=out[part])
        return out.reshape(len(rows_B), *self.shape)

    def take_stored(self, views_B: Array, rows_B: Array) -> tuple[Array, Array | None]:
        """As `take`, but as stored: to scale int8 on the GPU moves a quarter of the bytes.

        Returns:
            (B, *shape) int8, float16 or float32, and for int8 the float32 scales (B,) to multiply
            by; None for the others.
        """
        views_B, rows_B = self._in_range(views_B, rows_B)
        values = self._values.take(rows_B, views_B).reshape(len(rows_B), *self.shape)
        if self._scales is None:
            return values, None
        return values, self._scales.take(rows_B, views_B)[:, 0]

    def _in_range(self, views_B: Array, rows_B: Array) -> tuple[Array, Array]:
        views_B, rows_B = np.asarray(views_B, np.int64), np.asarray(rows_B, np.int64)
        if views_B.shape != rows_B.shape:
            views_B, rows_B = np.broadcast_arrays(views_B, rows_B)
        # Read as unsigned, negative numbers are huge: one comparison finds both ends.
        if rows_B.size and (
            views_B.view(np.uint64).max() >= self.views or rows_B.view(np.uint64).max() >= len(self)
        ):
            raise IndexError(f"views must be in [0, {self.views}) and rows in [0, {len(self)})")
        return views_B, rows_B

    def all(self, view: int) -> Array:
        """One whole view: (N, *shape) in `dtype`."""
        out = np.empty((len(self), *self.shape), self.dtype)
        for start in range(0, len(self), _ALL_BATCH):
            rows_B = np.arange(start, min(start + _ALL_BATCH, len(self)))
            out[rows_B] = self.take(np.full(len(rows_B), view), rows_B)
        return out

    def load_all(self) -> None:
        """Open and check every shard now instead of at first touch, e.g. before forking."""
        for shards in self._sets.values():
            shards.load_all()


def _numbered(values: Array) -> tuple[Array, Array]:
    """As `np.unique` with ``return_inverse``, in linear time: the values are shard numbers."""
    is_used = np.zeros(int(values.max(initial=-1)) + 1, bool)
    is_used[values] = True
    found = np.flatnonzero(is_used)
    return found, (np.cumsum(is_used) - 1)[values]
