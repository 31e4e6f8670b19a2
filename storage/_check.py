"""Comparing what lies in a cache with what was recorded, and putting it right.

Repair expects that nobody writes to or compacts the cache meanwhile.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage import _commits, _description, _rows, _zarr
from storage._commits import Commit
from storage._records import checksum
from storage._rows import RowTable

if TYPE_CHECKING:
    from storage.cache import FeatureCache

# Shards in memory at once.
_PARALLEL = 4
_SHARD = re.compile("[0-9]+")


@dataclass(frozen=True)
class ShardProblem:
    """One damaged file; ``shard`` is None when no embeddings are lost by it."""

    shard: int | None
    file: str
    reason: str


def verify(cache: "FeatureCache") -> list[ShardProblem]:
    """Every file that differs from its record, in shard order."""
    rows = _rows.load(cache.root, cache.base, tolerant=True)
    problems = _shard_problems(cache, rows)
    problems += [ShardProblem(None, path, reason) for path, reason in rows.damaged.items()]
    reason = "no record names it, so it does not count; `tintem repair` removes it"
    problems += [ShardProblem(None, path, reason) for path in _rows.unnamed(cache.root, cache.base)]
    described = _description.problems(cache.root, cache.base)
    return problems + [ShardProblem(None, path, reason) for path, reason in described]


def repair(cache: "FeatureCache") -> list[int]:
    """Withdraw damaged shards, restore metadata and row tables, remove leftovers."""
    rows = _rows.load(cache.root, cache.base, tolerant=True)
    dropped = sorted(
        {problem.shard for problem in _shard_problems(cache, rows) if problem.shard is not None}
    )
    for shard in dropped:
        cache.withdraw(shard)
    _rows.restore(cache.root, cache.base)
    rows = _rows.load(cache.root, cache.base)
    for shard in _written_shards(cache) - rows.shards.keys():
        cache.withdraw(shard)
    _description.restore(cache.root, cache.base)
    cache.describe(rows.next_shard, force=True)
    cache.root.delete_unfinished(cache.base)
    return dropped


def _written_shards(cache: "FeatureCache") -> set[int]:
    folder = f"{cache.base}/{_commits.FOLDER}/"
    paths = cache.root.list(folder)
    found = {path.removeprefix(folder).removesuffix(".json") for path in paths}
    for array in _zarr.arrays_of(cache.spec):
        folder = f"{cache.base}/{array.name}/c/0/"
        found |= {path.removeprefix(folder).split("/")[0] for path in cache.root.list(folder)}
    return {int(name) for name in found if _SHARD.fullmatch(name)}


def _shard_problems(cache: "FeatureCache", rows: RowTable) -> list[ShardProblem]:
    good, damaged = _commits.read_commits(cache.root, cache.base, rows.shards)
    problems = [
        ShardProblem(shard, _commits.commit_path(cache.base, shard), reason)
        for shard, reason in damaged.items()
    ]
    mine = []
    for shard, commit in good.items():
        if not commit.belongs_to(cache.id, rows.shards[shard]):
            path = _commits.commit_path(cache.base, shard)
            reason = (
                "it records other images, or another cache, than the row table gives to this shard"
            )
            problems.append(ShardProblem(shard, path, reason))
            continue
        mine.append(commit)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        for found in pool.map(lambda commit: _file_problems(cache, commit), mine):
            problems += found
    return sorted(problems, key=lambda problem: (problem.shard or 0, problem.file))


def _file_problems(cache: "FeatureCache", commit: Commit) -> list[ShardProblem]:
    problems = []
    for array in _zarr.arrays_of(cache.spec):
        path = array.shard_path(commit.shard)
        fact = commit.files.get(path)
        data = cache.root.read_or_none(f"{cache.base}/{path}")
        reason = ""
        if fact is None or data is None:
            reason = "it is missing"
        elif len(data) != fact.bytes:
            reason = f"it has {len(data)} bytes instead of {fact.bytes}"
        elif checksum(data) != fact.crc32:
            reason = "its checksum differs"
        if reason:
            problems.append(ShardProblem(commit.shard, f"{cache.base}/{path}", reason))
    return problems
