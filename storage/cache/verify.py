"""Comparing what lies in a cache with what was recorded, and putting it right.

Repair expects that nobody writes to or compacts the cache meanwhile.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from storage.cache import commits, description, rows
from storage.cache.commits import Commit, read_commits
from storage.cache.handle import CacheHandle
from storage.cache.rows import RowTable
from storage.cache.writer import shard_paths, withdraw
from storage.cache.zarr_format import arrays_of

# Shards in memory at once.
_PARALLEL = 4
_SHARD = re.compile("[0-9]+")


@dataclass(frozen=True)
class ShardProblem:
    """One damaged file; ``shard`` is None when no embeddings are lost by it."""

    shard: int | None
    file: str
    reason: str


def verify(cache: CacheHandle) -> list[ShardProblem]:
    """Every file that differs from its record, in shard order."""
    table = rows.load(cache.root, cache.base, tolerant=True)
    problems = _shard_problems(cache, table)
    problems += [ShardProblem(None, path, reason) for path, reason in table.damaged.items()]
    reason = "no record names it, so it does not count; `tintem repair` removes it"
    problems += [ShardProblem(None, path, reason) for path in rows.unnamed(cache.root, cache.base)]
    described = description.problems(cache)
    return problems + [ShardProblem(None, path, reason) for path, reason in described]


def repair(cache: CacheHandle) -> list[int]:
    """Withdraw damaged shards, restore metadata and row tables, remove leftovers."""
    table = rows.load(cache.root, cache.base, tolerant=True)
    dropped = sorted(
        {problem.shard for problem in _shard_problems(cache, table) if problem.shard is not None}
    )
    for shard in dropped:
        withdraw(cache, shard)
    rows.restore(cache.root, cache.base)
    table = rows.load(cache.root, cache.base)
    for shard in _written_shards(cache) - table.shards.keys():
        withdraw(cache, shard)
    description.restore(cache)
    description.fit_metadata(cache, table.next_shard, force=True)
    cache.root.delete_unfinished(cache.base)
    return dropped


def leftovers(cache: CacheHandle) -> list[str]:
    """Files that no row table names, as a killed plan or compaction leaves them.

    Nobody may write to the cache meanwhile.

    Raises:
        CorruptRecordError: if a record of rows and its copy are both damaged.
    """
    shards = _written_shards(cache) - rows.allocated(cache.root, cache.base).keys()
    paths = [path for shard in sorted(shards) for path in shard_paths(cache, shard)]
    return [path for path in paths if cache.root.exists(path)] + rows.unnamed(
        cache.root, cache.base
    )


def _written_shards(cache: CacheHandle) -> set[int]:
    folder = f"{cache.base}/{commits.FOLDER}/"
    paths = cache.root.list(folder)
    found = {path.removeprefix(folder).removesuffix(".json") for path in paths}
    for array in arrays_of(cache.spec):
        folder = f"{cache.base}/{array.name}/c/0/"
        found |= {path.removeprefix(folder).split("/")[0] for path in cache.root.list(folder)}
    return {int(name) for name in found if _SHARD.fullmatch(name)}


def _shard_problems(cache: CacheHandle, table: RowTable) -> list[ShardProblem]:
    good, damaged = read_commits(cache, table.shards)
    problems = [
        ShardProblem(shard, commits.commit_path(cache.base, shard), reason)
        for shard, reason in damaged.items()
    ]
    mine = []
    for shard, commit in good.items():
        if not commit.belongs_to(cache.id, table.shards[shard]):
            path = commits.commit_path(cache.base, shard)
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


def _file_problems(cache: CacheHandle, commit: Commit) -> list[ShardProblem]:
    problems = []
    for array in arrays_of(cache.spec):
        path = array.shard_path(commit.shard)
        file, fact = f"{cache.base}/{path}", commit.files.get(path)
        data = cache.root.read_or_none(file)
        reason = "it is missing" if fact is None else fact.problem(data)
        if reason:
            problems.append(ShardProblem(commit.shard, file, reason))
    return problems
