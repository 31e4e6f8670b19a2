"""What the records of a cache say now, and what is therefore left to compute."""

from functools import cached_property

import polars as pl

from storage.cache import rows
from storage.cache.commits import read_commits
from storage.cache.handle import CacheHandle
from storage.cache.zarr_format import arrays_of
from storage.keys import present


class State:
    """A snapshot of row table and commit records.

    ``sound`` holds the shards whose record is valid, fits the row table, and whose files are
    there with the recorded size. Checksums are compared by readers and by `verify`.
    """

    def __init__(self, cache: CacheHandle) -> None:
        self._size = cache.layout.rows_per_shard
        self.rows = rows.load(cache.root, cache.base)
        good, _ = read_commits(cache, self.rows.shards)
        sizes: dict[str, int] = {}
        for array in arrays_of(cache.spec) if good else []:
            sizes |= cache.root.sizes(f"{cache.base}/{array.name}/c")
        self.sound = {
            shard: commit
            for shard, commit in good.items()
            if commit.belongs_to(cache.id, self.rows.shards[shard])
            and all(sizes.get(f"{cache.base}/{p}") == f.bytes for p, f in commit.files.items())
        }

    @cached_property
    def current(self) -> pl.DataFrame:
        """(key, row), one row per key: of several the last that is done, else the last.

        Who computes an earlier row may be faster than who has planned a later one.
        """
        assigned = self.rows.assigned
        if assigned["key"].hash().n_unique() == assigned.height:
            return assigned
        is_done = (pl.col("row") // self._size).is_in(list(self.sound))
        by_worth = assigned.sort(is_done, maintain_order=True)
        return by_worth.unique("key", keep="last", maintain_order=True)

    def done_rows(self) -> pl.DataFrame:
        """(key, row) of the rows that can be read."""
        if len(self.sound) == len(self.rows.shards):
            return self.current
        return self.rows_in(list(self.sound))

    def rows_in(self, shards: list[int]) -> pl.DataFrame:
        """(key, row) of the current rows that lie in some shards."""
        return self.current.filter((pl.col("row") // self._size).is_in(shards))

    def resumable(self, wanted: pl.Series | None = None) -> dict[int, list[str]]:
        """Shards that are not done and still can be: none of their images is gone.

        A shard without all of its rows is left for ever: a compaction has moved some of them, or
        an image was gone, so that a plan has given the others rows elsewhere.

        Args:
            wanted: the images there are; None: all that were ever planned.
        """
        left = sorted(self.rows.shards.keys() - self.sound.keys())
        if not left:
            return {}
        waiting = self.rows_in(left)
        if wanted is not None:
            waiting = waiting.filter(present(waiting["key"], wanted))
        groups = (
            waiting.sort("row")
            .group_by(pl.col("row") // self._size, maintain_order=True)
            .agg("key")
        )
        found = dict(zip(groups["row"].to_list(), groups["key"].to_list(), strict=True))
        return {s: keys for s, keys in found.items() if len(keys) == self.rows.shards[s].rows}
