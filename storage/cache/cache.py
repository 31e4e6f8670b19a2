"""The feature cache: embeddings of many views of many images, as ordinary Zarr.

Legend: V views, N images, B batch, R rows of one shard.

<cache>/record.json       the specification: written last when a cache is made
<cache>/zarr.json, <kind>/zarr.json, <kind>/c/0/<shard>/0   Zarr v3; a file covers all views
<cache>/rows/             which image is in which row (see rows.py)
<cache>/commits/          which shards are done (see commits.py)
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from storage.cache import compaction, description, rows, verify, writer
from storage.cache.compaction import Compaction, Fragmentation
from storage.cache.handle import CacheHandle
from storage.cache.reader import FeatureReader
from storage.cache.rows import RowTable
from storage.cache.spec import CacheSpec, choose_layout
from storage.cache.state import State
from storage.cache.verify import ShardProblem
from storage.cache.writer import ShardTask
from storage.cache.zarr_format import arrays_of
from storage.copies import CopyFolder
from storage.errors import MissingRowsError, StorageInputError
from storage.keys import as_series, distinct, rows_of
from storage.root import Root


class FeatureCache:
    """One cache below a root. Cheap to open; every method reads the recorded state afresh."""

    def __init__(self, handle: CacheHandle) -> None:
        self._handle = handle
        self.root = handle.root
        self.id = handle.id
        self.spec = handle.spec
        self.layout = handle.layout
        self.base = handle.base

    @classmethod
    def create_or_open(
        cls,
        root: Root,
        spec: CacheSpec,
        rows_per_shard: int | None = None,
        *,
        codec: str = "none",
        provenance: dict[str, Any] | None = None,
    ) -> "FeatureCache":
        """The cache of a specification, made when it is not there yet.

        Args:
            rows_per_shard: images per shard file; None: about 32 MiB of the largest kind. Both
                this and ``codec`` (all but "none" are for archives) only count when the cache is
                made: an existing cache keeps its layout.
            provenance: versions, hardware, source manifest; kept beside the data, not in the id.

        Raises:
            CacheMismatchError: if a cache of another specification lies there; names the field.
            CacheFormatError: if it was written by another version of the format.
            CorruptRecordError: if its record is damaged.
        """
        if not description.exists(root, spec.id):
            layout = choose_layout(spec, rows_per_shard, codec)
            description.create(CacheHandle(root, spec.id, spec, layout), provenance or {})
        found = description.read(root, spec.id)
        description.refuse_other(found.url, found.spec, spec)
        return cls(found)

    @classmethod
    def open(cls, root: Root, cache_id: str) -> "FeatureCache":
        """An existing cache.

        Raises:
            MissingObjectError: if there is none; CacheFormatError, CorruptRecordError as above.
        """
        return cls(description.read(root, cache_id))

    def plan(self, keys: Sequence[str] | pl.Series) -> list[ShardTask]:
        """The shards still to be computed so that every key is in the cache.

        Rows for new keys are persisted before this returns, so a rerun after a crash plans
        exactly the shards without a valid commit record. Shards with a missing or truncated file
        are planned again. Calling it from several processes is safe.
        """
        wanted = distinct(as_series(keys))
        size = self.layout.rows_per_shard
        while True:
            state = State(self._handle)
            resumable = state.resumable(wanted)
            shards = rows_of(wanted, state.current) // size
            new = wanted.filter(~shards.is_in([*state.sound, *resumable]).fill_null(False))
            if new.is_empty() or self._append(state.rows, new):
                break
        description.complete_copies(self._handle)
        description.fit_metadata(self._handle, max(state.rows.shards, default=-1) + 1)
        tasks = [ShardTask(shard, tuple(names)) for shard, names in resumable.items()]
        for i, start in enumerate(range(0, len(new), size)):
            names = new.slice(start, size).to_list()
            tasks.append(ShardTask(state.rows.next_shard + i, tuple(names)))
        return tasks

    def write_shard(self, task: ShardTask, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        """Store one shard: each file whole, then the record that makes it count.

        A shard that is recorded and sound is left as it is. Different shards may be written by
        different processes at once; the same shard by one process at a time.

        Args:
            arrays: per kind (V, len(task.keys), *shape), float32 or float16, finite.

        Raises:
            StorageInputError: if a kind is missing, misshapen, not finite, or too large for
                float16.
        """
        writer.write_shard(self._handle, task, arrays)

    def missing(self, keys: Sequence[str] | pl.Series) -> list[str]:
        """The keys without a finished row, in the order given."""
        wanted = as_series(keys)
        return wanted.filter(rows_of(wanted, State(self._handle).done_rows()).is_null()).to_list()

    def reader(
        self,
        keys: Sequence[str] | pl.Series,
        kind: str = "global",
        *,
        memory_bytes: int | None = None,
        copies: CopyFolder | None = None,
    ) -> FeatureReader:
        """Random access to the rows of these keys, in their order.

        Args:
            memory_bytes: hold the shards in memory when they need no more than this.
            copies: where shards are kept while they are read, unless they can be read in place.
                Both are as the root's `Reading` says where they are not given.

        Raises:
            MissingRowsError: if any key is not in the cache yet; says how many and names three.
            StorageInputError: if the cache has no such kind.
        """
        if kind not in self.spec.kinds:
            raise StorageInputError(
                f"{self.id} holds no {kind!r}, only {', '.join(self.spec.kinds)}. "
                f"Extract with {kind!r} among the kinds."
            )
        state = State(self._handle)
        wanted = as_series(keys)
        places = rows_of(wanted, state.done_rows())
        absent = wanted.filter(places.is_null())
        if len(absent):
            raise MissingRowsError(
                f"{self._handle.url} lacks {len(absent)} of {len(wanted)} images "
                f"({', '.join(absent.head(3))}). Run `tintem extract` to add them."
            )
        return FeatureReader(
            self._handle,
            kind,
            places.to_numpy(),
            state.sound,
            memory_bytes=memory_bytes,
            copies=copies,
        )

    def verify(self) -> list[ShardProblem]:
        """Read everything and compare it with what was recorded; empty when all is sound."""
        return verify.verify(self._handle)

    def repair(self) -> list[int]:
        """Withdraw damaged shards, so that the next plan computes them again; mend all else."""
        return verify.repair(self._handle)

    def leftovers(self) -> list[str]:
        """Paths that no row table names, while nobody writes to the cache; of no use to anybody."""
        return verify.leftovers(self._handle)

    def fragmentation(self) -> Fragmentation:
        """How finely the cache is cut; only small records are read for it."""
        shards = rows.allocated(self.root, self.base)
        return compaction.fragmentation(shards.values(), self.layout.rows_per_shard)

    def compact(
        self,
        *,
        fullness: float = 0.5,
        keep: Sequence[str] | pl.Series | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Compaction:
        """Merge part-filled shards after many small appends; see `compaction.compact`."""
        wanted = None if keep is None else as_series(keep)
        return compaction.compact(self._handle, fullness=fullness, keep=wanted, progress=progress)

    def stats(self, keys: Sequence[str] | pl.Series | None = None) -> dict[str, Any]:
        """Rows and shards done and pending, and bytes per stored array.

        A shard is pending if it is not done and a plan would ask for it.

        Args:
            keys: the images there are; None: all that were ever planned. A shard that waits for an
                image that is gone is never computed.
        """
        state = State(self._handle)
        wanted = None if keys is None else distinct(as_series(keys))
        sizes = {array.name: 0 for array in arrays_of(self.spec)}
        for commit in state.sound.values():
            for path, fact in commit.files.items():
                sizes[path.split("/", 1)[0]] += fact.bytes
        return {
            "rows": state.done_rows().height,
            "shards": len(state.sound),
            "pending": len(state.resumable(wanted)),
            "rows_per_shard": self.layout.rows_per_shard,
            "bytes": sizes,
        }

    def _append(self, table: RowTable, new: pl.Series) -> bool:
        size = self.layout.rows_per_shard
        shards = rows.allocate(new, table.next_shard, size)
        added = rows.table_of(new, table.next_shard, size)
        number = table.next_generation
        if not rows.publish(self.root, self.base, number, "append", added, shards):
            return False
        table.shards.update({shard.shard: shard for shard in shards})
        return True
