"""Which shards are done: a sealed record per shard, written after its files."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from storage.cache.handle import CacheHandle
from storage.cache.rows import Allocation
from storage.errors import CorruptRecordError
from storage.records import FileFact, seal, unseal

FOLDER = "commits"
# For more shards than this, one listing is cheaper than asking for each record.
_FEW = 16


@dataclass(frozen=True)
class Commit:
    """A shard that is done."""

    cache: str
    shard: int
    rows: int
    keys: str
    files: dict[str, FileFact]

    def belongs_to(self, cache: str, allocation: Allocation) -> bool:
        """Whether this is about this cache and the rows that its row table gives to the shard."""
        return (self.cache, self.shard, self.rows, self.keys) == (
            cache,
            allocation.shard,
            allocation.rows,
            allocation.keys,
        )


def commit_path(base: str, shard: int) -> str:
    """Where the record of a shard lies."""
    return f"{base}/{FOLDER}/{shard:08d}.json"


def write_commit(cache: CacheHandle, commit: Commit) -> None:
    """Record that a shard is done."""
    cache.root.write(commit_path(cache.base, commit.shard), seal(asdict(commit)))


def read_commits(
    cache: CacheHandle, shards: Iterable[int]
) -> tuple[dict[int, Commit], dict[int, str]]:
    """The valid commit records among shards, and what is wrong with the damaged ones."""
    asked = list(shards)
    if len(asked) > _FEW:
        written = set(cache.root.list(f"{cache.base}/{FOLDER}"))
        asked = [shard for shard in asked if commit_path(cache.base, shard) in written]
    paths = [commit_path(cache.base, shard) for shard in asked]
    good: dict[int, Commit] = {}
    damaged: dict[int, str] = {}
    for shard, path, data in zip(asked, paths, cache.root.read_many(paths), strict=True):
        if data is None:
            continue
        try:
            good[shard] = _parse(data, f"{cache.root.url}/{path}")
        except CorruptRecordError as error:
            damaged[shard] = str(error)
    return good, damaged


def _parse(data: bytes, where: str) -> Commit:
    payload: dict[str, Any] = unseal(data, where)
    files = {path: FileFact(**fact) for path, fact in payload.pop("files").items()}
    return Commit(files=files, **payload)
