"""Which generations of a row table count."""

import polars as pl

from storage.cache import rows
from storage.testing import some_keys

BASE, SIZE = "caches/tiny", 8


def publish(root, number, purpose, keys, shard):
    named = pl.Series("key", keys, dtype=pl.String)
    allocations = rows.allocate(named, shard, SIZE)
    table = rows.table_of(named, shard, SIZE)
    assert rows.publish(root, BASE, number, purpose, table, allocations)


def test_the_last_switch_and_what_follows_count_also_where_older_ones_are_still_there(root):
    """A compaction that is killed before it has removed them leaves them."""
    names = some_keys(12)
    publish(root, 0, "append", names[:6], 0)
    publish(root, 1, "switch", names[:5], 1)
    publish(root, 2, "append", names[5:8], 2)
    publish(root, 3, "switch", names[:4], 3)
    publish(root, 4, "append", names[8:], 4)
    found = rows.load(root, BASE)
    assert found.assigned["key"].to_list() == names[:4] + names[8:]
    assert found.assigned["row"].to_list() == [24, 25, 26, 27, 32, 33, 34, 35]
    assert sorted(found.shards) == sorted(rows.allocated(root, BASE)) == [3, 4]
    assert (found.next_shard, found.next_generation) == (5, 5)
