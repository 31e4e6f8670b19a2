"""Which shards are done: a sealed record per shard, written after its files."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from storage._records import seal, unseal
from storage._rows import Allocation
from storage.errors import CorruptRecordError
from storage.root import Root

FOLDER = "commits"
# For more shards than this, one listing is cheaper than asking for each record.
_FEW = 16


@dataclass(frozen=True)
class FileFact:
    """What a file was when it was written."""

    bytes: int
    crc32: int


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


def write_commit(root: Root, base: str, commit: Commit) -> None:
    """Record that a shard is done."""
    files = {
        path: {"bytes": fact.bytes, "crc32": fact.crc32} for path, fact in commit.files.items()
    }
    payload = {
        "cache": commit.cache,
        "shard": commit.shard,
        "rows": commit.rows,
        "keys": commit.keys,
        "files": files,
    }
    root.write(commit_path(base, commit.shard), seal(payload))


def read_commits(
    root: Root, base: str, shards: Iterable[int]
) -> tuple[dict[int, Commit], dict[int, str]]:
    """The valid commit records among shards, and what is wrong with the damaged ones."""
    asked = list(shards)
    if len(asked) > _FEW:
        written = set(root.list(f"{base}/{FOLDER}"))
        asked = [shard for shard in asked if commit_path(base, shard) in written]
    paths = [commit_path(base, shard) for shard in asked]
    good: dict[int, Commit] = {}
    damaged: dict[int, str] = {}
    for shard, path, data in zip(asked, paths, root.read_many(paths), strict=True):
        if data is None:
            continue
        try:
            good[shard] = _parse(data, f"{root.url}/{path}")
        except CorruptRecordError as error:
            damaged[shard] = str(error)
    return good, damaged


def _parse(data: bytes, where: str) -> Commit:
    payload: dict[str, Any] = unseal(data, where)
    files = {path: FileFact(**fact) for path, fact in payload.pop("files").items()}
    return Commit(files=files, **payload)
