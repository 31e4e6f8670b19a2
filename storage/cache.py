"""The feature cache: embeddings of many views of many images, as ordinary Zarr.

Legend: V views, N images, B batch, R rows of one shard.

<cache>/record.json       the specification: written last when a cache is made
<cache>/zarr.json, <kind>/zarr.json, <kind>/c/0/<shard>/0   Zarr v3; a file covers all views
<cache>/rows/             which image is in which row (see _rows)
<cache>/commits/          which shards are done (see _commits)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from storage import _commits, _description, _rows, _zarr
from storage._commits import Commit, FileFact
from storage._description import FOLDER
from storage._keys import as_series, distinct, rows_of
from storage._records import checksum, keys_digest
from storage._rows import RowTable
from storage._state import State
from storage.copies import CopyFolder
from storage.errors import MissingRowsError, StorageInputError
from storage.root import Root
from storage.spec import CacheSpec, KindSpec, Layout, choose_layout

if TYPE_CHECKING:
    from storage._check import ShardProblem
    from storage.compaction import Compaction, Fragmentation
    from storage.reader import FeatureReader

__all__ = ["CacheSpec", "FeatureCache", "KindSpec", "ShardTask"]


@dataclass(frozen=True)
class ShardTask:
    """A shard still to be computed: plain data, can be pickled or written as JSON."""

    shard: int
    keys: tuple[str, ...]


class FeatureCache:
    """One cache below a root. Cheap to open; every method reads the recorded state afresh."""

    def __init__(self, root: Root, cache_id: str, spec: CacheSpec, layout: Layout) -> None:
        self.root = root
        self.id = cache_id
        self.spec = spec
        self.layout = layout
        self.base = f"{FOLDER}/{cache_id}"

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
                this and ``codec`` ("none" or "zstd", the latter for archives) only count when the
                cache is made: an existing cache keeps its layout.
            provenance: versions, hardware, source manifest; kept beside the data, not in the id.

        Raises:
            CacheMismatchError: if a cache of another specification lies there; names the field.
            CacheFormatError: if it was written by another version of the format.
            CorruptRecordError: if its record is damaged.
        """
        base = f"{FOLDER}/{spec.id}"
        if not _description.exists(root, base):
            layout = choose_layout(spec, rows_per_shard, codec)
            _description.create(root, base, spec, layout, provenance or {})
        cache = cls.open(root, spec.id)
        _description.refuse_other(f"{root.url}/{base}", cache.spec, spec)
        return cache

    @classmethod
    def open(cls, root: Root, cache_id: str) -> "FeatureCache":
        """An existing cache.

        Raises:
            MissingObjectError: if there is none; CacheFormatError, CorruptRecordError as above.
        """
        return cls(root, cache_id, *_description.read(root, f"{FOLDER}/{cache_id}"))

    def plan(self, keys: Sequence[str] | pl.Series) -> list[ShardTask]:
        """The shards still to be computed so that every key is in the cache.

        Rows for new keys are persisted before this returns, so a rerun after a crash plans
        exactly the shards without a valid commit record. Shards with a missing or truncated file
        are planned again. Calling it from several processes is safe.
        """
        wanted = distinct(as_series(keys))
        size = self.layout.rows_per_shard
        while True:
            state = State(self)
            resumable = state.resumable(wanted)
            shards = rows_of(wanted, state.current) // size
            new = wanted.filter(~shards.is_in([*state.sound, *resumable]).fill_null(False))
            if new.is_empty() or self._append(state.rows, new):
                break
        self.describe(max(state.rows.shards, default=-1) + 1)
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
        if self._is_written(task):
            return
        self.commit_shard(task.shard, task.keys, self._stored_arrays(task, arrays))

    def commit_shard(
        self,
        shard: int,
        keys: Sequence[str],
        arrays: Sequence[tuple[_zarr.ArraySpec, np.ndarray[Any, Any]]],
    ) -> None:
        """Write the files of a shard from values as they are stored, then its record."""
        # Computed again, values may differ in the last bit: the old record must not vouch for them.
        self.root.delete(_commits.commit_path(self.base, shard))
        files: dict[str, FileFact] = {}
        for array, values in arrays:
            data = _zarr.encode_shard(array, self.layout, values)
            path = array.shard_path(shard)
            self.root.write(f"{self.base}/{path}", data)
            files[path] = FileFact(len(data), checksum(data))
        commit = Commit(self.id, shard, len(keys), keys_digest(keys), files)
        self.describe(shard + 1)
        _commits.write_commit(self.root, self.base, commit)

    def describe(self, shards: int, *, force: bool = False) -> None:
        """Make sure that the Zarr metadata are whole and have room for so many shards."""
        _description.fit_metadata(self.root, self.base, self.spec, self.layout, shards, force=force)

    def withdraw(self, shard: int) -> None:
        """Delete the record of a shard, then its files."""
        self.root.delete(_commits.commit_path(self.base, shard))
        for array in _zarr.arrays_of(self.spec):
            self.root.delete(f"{self.base}/{array.name}/c/0/{shard}")

    def missing(self, keys: Sequence[str] | pl.Series) -> list[str]:
        """The keys without a finished row, in the order given."""
        wanted = as_series(keys)
        return wanted.filter(rows_of(wanted, State(self).done_rows()).is_null()).to_list()

    def reader(
        self,
        keys: Sequence[str] | pl.Series,
        kind: str = "global",
        *,
        memory_bytes: int | None = None,
        copies: CopyFolder | None = None,
    ) -> "FeatureReader":
        """Random access to the rows of these keys, in their order.

        Args:
            memory_bytes: hold the shards in memory when they need no more than this.
            copies: where shards are kept while they are read, unless they can be read in place.
                Both are as the root's `Reading` says where they are not given.

        Raises:
            MissingRowsError: if any key is not in the cache yet; says how many and names three.
            StorageInputError: if the cache has no such kind.
        """
        from storage.reader import FeatureReader

        if kind not in self.spec.kinds:
            raise StorageInputError(
                f"{self.id} holds no {kind!r}, only {', '.join(self.spec.kinds)}. "
                f"Extract with {kind!r} among the kinds."
            )
        state = State(self)
        wanted = as_series(keys)
        rows = rows_of(wanted, state.done_rows())
        absent = wanted.filter(rows.is_null())
        if len(absent):
            raise MissingRowsError(
                f"{self.root.url}/{self.base} lacks {len(absent)} of {len(wanted)} images "
                f"({', '.join(absent.head(3))}). Run `tintem extract` to add them."
            )
        return FeatureReader(
            self, kind, rows.to_numpy(), state.sound, memory_bytes=memory_bytes, copies=copies
        )

    def verify(self) -> "list[ShardProblem]":
        """Read everything and compare it with what was recorded; empty when all is sound."""
        from storage import _check

        return _check.verify(self)

    def repair(self) -> list[int]:
        """Withdraw damaged shards, so that the next plan computes them again; mend all else."""
        from storage import _check

        return _check.repair(self)

    def fragmentation(self) -> "Fragmentation":
        """How finely the cache is cut; only small records are read for it."""
        from storage import compaction

        shards = _rows.allocated(self.root, self.base)
        return compaction.fragmentation(shards.values(), self.layout.rows_per_shard)

    def compact(
        self,
        *,
        fullness: float = 0.5,
        keep: Sequence[str] | pl.Series | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "Compaction":
        """Merge part-filled shards after many small appends; see `storage.compaction`."""
        from storage import compaction

        wanted = None if keep is None else as_series(keep)
        return compaction.compact(self, fullness=fullness, keep=wanted, progress=progress)

    def stats(self, keys: Sequence[str] | pl.Series | None = None) -> dict[str, Any]:
        """Rows and shards done and pending, and bytes per stored array.

        A shard is pending if it is not done and a plan would ask for it.

        Args:
            keys: the images there are; None: all that were ever planned. A shard that waits for an
                image that is gone is never computed.
        """
        state = State(self)
        wanted = None if keys is None else distinct(as_series(keys))
        sizes = {array.name: 0 for array in _zarr.arrays_of(self.spec)}
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

    def _is_written(self, task: ShardTask) -> bool:
        good, _ = _commits.read_commits(self.root, self.base, [task.shard])
        commit = good.get(task.shard)
        return (
            commit is not None
            and commit.keys == keys_digest(task.keys)
            and all(
                self.root.sizes(f"{self.base}/{path}") == {f"{self.base}/{path}": fact.bytes}
                for path, fact in commit.files.items()
            )
        )

    def _append(self, rows: RowTable, new: pl.Series) -> bool:
        size = self.layout.rows_per_shard
        shards = _rows.allocate(new, rows.next_shard, size)
        table = _rows.table_of(new, rows.next_shard, size)
        number = rows.next_generation
        if not _rows.publish(self.root, self.base, number, "append", table, shards):
            return False
        rows.shards.update({shard.shard: shard for shard in shards})
        return True

    def _stored_arrays(
        self, task: ShardTask, arrays: dict[str, np.ndarray[Any, Any]]
    ) -> list[tuple[_zarr.ArraySpec, np.ndarray[Any, Any]]]:
        stored: dict[str, np.ndarray[Any, Any]] = {}
        for name, kind in self.spec.kinds.items():
            wanted = (self.spec.views, len(task.keys), *kind.shape)
            if name not in arrays or arrays[name].shape != wanted:
                found = arrays[name].shape if name in arrays else "nothing"
                raise StorageInputError(
                    f"Shard {task.shard} of {self.id} needs {name!r} of shape {wanted}, "
                    f"but got {found}."
                )
            stored |= _zarr.stored_values(name, kind, arrays[name], f"shard {task.shard}")
        return [(array, stored[array.name]) for array in _zarr.arrays_of(self.spec)]
