"""Random access to the embeddings of a cache.

Legend: V views, N images of this reader, B batch, S shards in use, R rows of one shard.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from storage import _zarr
from storage._commits import Commit
from storage._shardset import ShardSet
from storage.spec import SCALE_SUFFIX

if TYPE_CHECKING:
    from storage.cache import FeatureCache

Array = np.ndarray[Any, Any]
_ALL_BATCH = 4096


class FeatureReader:
    """The rows of some images, in the order they were asked for.

    Local shards are memory-mapped; each is checked against its recorded CRC-32C when it is first
    touched. A reader can be pickled, or inherited by a forked worker, without copying embeddings.
    """

    def __init__(
        self,
        cache: "FeatureCache",
        kind: str,
        rows: Array,
        commits: dict[int, Commit],
        *,
        memory_bytes: int = 0,
    ) -> None:
        layout = cache.layout
        shards, slots = np.unique(rows // layout.rows_per_shard, return_inverse=True)
        self._rows_per_shard = layout.rows_per_shard
        self._rows_N = slots * layout.rows_per_shard + rows % layout.rows_per_shard
        self._kind = cache.spec.kinds[kind]
        self.views = cache.spec.views
        arrays = [array for array in _zarr.arrays_of(cache.spec) if array.kind == kind]
        used = [commits[int(shard)] for shard in shards]
        needed = sum(
            commit.files[array.shard_path(commit.shard)].bytes
            for array in arrays
            for commit in used
        )
        self._sets = {
            array.name: ShardSet(
                cache.root,
                cache.base,
                array,
                layout,
                cache.spec.views,
                used,
                in_memory=needed <= memory_bytes,
            )
            for array in arrays
        }
        self._values = self._sets[kind]
        self._scales = self._sets.get(kind + SCALE_SUFFIX)

    def __len__(self) -> int:
        return len(self._rows_N)

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
        views_B, rows_B = np.broadcast_arrays(np.asarray(views_B), np.asarray(rows_B))
        if not rows_B.size:
            return np.empty((0, *self.shape), self.dtype)
        if min(views_B.min(), rows_B.min()) < 0 or views_B.max() >= self.views:
            raise IndexError(f"views must be in [0, {self.views}) and rows in [0, {len(self)})")
        slots_B, locals_B = np.divmod(self._rows_N[rows_B], self._rows_per_shard)
        out = self._values.take(slots_B, locals_B, views_B)
        if self._scales is not None:
            out = out * self._scales.take(slots_B, locals_B, views_B)
        return out.reshape(len(rows_B), *self.shape)

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
