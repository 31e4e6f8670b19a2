"""Writing shards: each file whole, then the record that makes them count.

Legend: V views.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from storage.cache.commits import Commit, commit_path, read_commits, write_commit
from storage.cache.description import fit_metadata
from storage.cache.handle import CacheHandle
from storage.cache.quantise import stored_values
from storage.cache.zarr_format import ArraySpec, arrays_of, encode_shard
from storage.errors import StorageInputError
from storage.keys import keys_digest
from storage.records import FileFact


@dataclass(frozen=True)
class ShardTask:
    """A shard still to be computed: plain data, can be pickled or written as JSON."""

    shard: int
    keys: tuple[str, ...]


def write_shard(
    cache: CacheHandle, task: ShardTask, arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    """Store the embeddings of one shard, unless they are there; see `FeatureCache.write_shard`."""
    if not _is_written(cache, task):
        commit_shard(cache, task.shard, task.keys, _stored_arrays(cache, task, arrays))


def commit_shard(
    cache: CacheHandle,
    shard: int,
    keys: Sequence[str],
    arrays: Sequence[tuple[ArraySpec, np.ndarray[Any, Any]]],
) -> None:
    """Write the files of a shard from values as they are stored, then its record."""
    # Computed again, values may differ in the last bit: the old record must not vouch for them.
    cache.root.delete(commit_path(cache.base, shard))
    files: dict[str, FileFact] = {}
    for array, values in arrays:
        data = encode_shard(array, cache.layout, values)
        path = array.shard_path(shard)
        cache.root.write(f"{cache.base}/{path}", data)
        files[path] = FileFact.of(data)
    fit_metadata(cache, shard + 1)
    write_commit(cache, Commit(cache.id, shard, len(keys), keys_digest(keys), files))


def withdraw(cache: CacheHandle, shard: int) -> None:
    """Delete the record of a shard, then its files."""
    for path in shard_paths(cache, shard):
        cache.root.delete(path)


def shard_paths(cache: CacheHandle, shard: int) -> list[str]:
    """Where the record of a shard lies, and then its files."""
    files = [f"{cache.base}/{array.name}/c/0/{shard}" for array in arrays_of(cache.spec)]
    return [commit_path(cache.base, shard), *files]


def _is_written(cache: CacheHandle, task: ShardTask) -> bool:
    good, _ = read_commits(cache, [task.shard])
    commit = good.get(task.shard)
    return (
        commit is not None
        and commit.keys == keys_digest(task.keys)
        and all(
            cache.root.sizes(f"{cache.base}/{path}") == {f"{cache.base}/{path}": fact.bytes}
            for path, fact in commit.files.items()
        )
    )


def _stored_arrays(
    cache: CacheHandle, task: ShardTask, arrays: dict[str, np.ndarray[Any, Any]]
) -> list[tuple[ArraySpec, np.ndarray[Any, Any]]]:
    stored: dict[str, np.ndarray[Any, Any]] = {}
    for name, kind in cache.spec.kinds.items():
        wanted = (cache.spec.views, len(task.keys), *kind.shape)
        if name not in arrays or arrays[name].shape != wanted:
            found = arrays[name].shape if name in arrays else "nothing"
            raise StorageInputError(
                f"Shard {task.shard} of {cache.id} needs {name!r} of shape {wanted}, "
                f"but got {found}."
            )
        stored |= stored_values(name, kind, arrays[name], f"shard {task.shard}")
    return [(array, stored[array.name]) for array in arrays_of(cache.spec)]
