"""What the records of a cache say now, and what is therefore left to compute."""

from functools import cached_property
from typing import TYPE_CHECKING

import polars as pl

from storage import _commits, _rows, _zarr
from storage._keys import present

if TYPE_CHECKING:
    from storage.cache import FeatureCache


class State:
    """A snapshot of row table and commit records.

    ``sound`` holds the shards whose record is valid, fits the row table, and whose files are
    there with the recorded size. Checksums are compared by readers and by `verify`.
    """

    def __init__(self, cache: "FeatureCache") -> None:
        self._size = cache.layout.rows_per_shard
        self.rows = _rows.load(cache.root, cache.base)
        good, _ = _commits.read_commits(cache.root, cache.base, self.rows.shards)
        present: dict[str, int] = {}
        for array in _zarr.arrays_of(cache.spec) if good else []:
            present |= cache.root.sizes(f"{cache.base}/{array.name}/c")
        self.sound = {
            shard: commit
            for shard, commit in good.items()
            if commit.belongs_to(cache.id, self.rows.shards[shard])
            and all(present.get(f"{cache.base}/{p}") == f.bytes for p, f in commit.files.items())
        }

    @cached_property
    def current(self) -> pl.DataFrame:
        """(key, row), one row per key, done or not."""
        return self.rows.current

    def done_rows(self) -> pl.DataFrame:
        """(key, row) of the rows that can be read."""
        if len(self.sound) == len(self.rows.shards):
            return self.current
        return self.rows_in(list(self.sound))

    def rows_in(self, shards: list[int]) -> pl.DataFrame:
        """(key, row) of the current rows that lie in some shards."""
        return self.current.filter((pl.col("row") // self._size).is_in(shards))

    @property
    def pending(self) -> set[int]:
        """Shards that are not done and hold a row that counts."""
        waiting = self.rows.shards.keys() - self.sound.keys()
        if not waiting:
            return set()
        return waiting & set((self.current["row"] // self._size).unique().to_list())

    def resumable(self, wanted: pl.Series) -> dict[int, list[str]]:
        """Pending shards all of whose images are still wanted: only those can be computed."""
        pending = sorted(self.rows.shards.keys() - self.sound.keys())
        if not pending:
            return {}
        shard = pl.col("row") // self._size
        waiting = self.rows.assigned.with_columns(shard=shard)
        waiting = waiting.filter(pl.col("shard").is_in(pending))
        groups = (
            waiting.with_columns(wanted=present(waiting["key"], wanted))
            .sort("row")
            .group_by("shard", maintain_order=True)
            .agg(pl.col("key"), pl.col("wanted").all())
            .filter("wanted")
        )
        found = dict(zip(groups["shard"].to_list(), groups["key"].to_list(), strict=True))
        # A compaction leaves rows behind; a shard without all of its rows cannot be made again.
        return {s: keys for s, keys in found.items() if len(keys) == self.rows.shards[s].rows}
