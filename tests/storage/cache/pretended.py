"""Caches of millions of images without their embeddings: files of the right size, and records."""

import re
from collections.abc import Iterable
from pathlib import Path

from storage.cache import FeatureCache, ShardTask
from storage.cache.commits import Commit, write_commit
from storage.cache.handle import CacheHandle
from storage.cache.zarr_format import arrays_of, plain_size
from storage.keys import keys_digest
from storage.records import FileFact


def pretend_written(cache: FeatureCache, tasks: Iterable[ShardTask]) -> None:
    """Commit shards of a local cache of one array, full of zeros that take no space."""
    handle = CacheHandle(cache.root, cache.id, cache.spec, cache.layout)
    (array,) = arrays_of(cache.spec)
    for task in tasks:
        path = array.shard_path(task.shard)
        size = plain_size(array, cache.layout, cache.spec.views, len(task.keys))
        file = cache.root.path(f"{cache.base}/{path}")
        assert file is not None
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream:
            stream.truncate(size)
        files = {path: FileFact(size, 0)}
        commit = Commit(cache.id, task.shard, len(task.keys), keys_digest(task.keys), files)
        write_commit(handle, commit)


def peak_memory() -> int:
    """Return the most bytes of memory that this process has had.

    Not `ru_maxrss`: a new program inherits that of the process that started it.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
