"""Ten million images on paper: no embeddings, but every record that a real cache would have."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import json, sys, time
import numpy as np
import polars as pl
from storage.cache import CacheSpec, FeatureCache, KindSpec
from tintem_core.training.order import EpochOrder
from storage.root import open_root
from tests.storage.cache.pretended import peak_memory, pretend_written

rows, seconds = 10_000_000, {}
def timed(name, call):
    start = time.perf_counter()
    result = call()
    seconds[name] = round(time.perf_counter() - start, 1)
    return result

numbers = pl.int_range(rows, dtype=pl.UInt64, eager=True)
low, high = (numbers.hash(seed).cast(pl.String).str.zfill(20).str.slice(4) for seed in (1, 2))
keys = pl.DataFrame({"a": low, "b": high}).select(key=pl.concat_str("a", "b"))["key"]
assert keys.str.len_bytes().unique().to_list() == [32]
del numbers, low, high
root = open_root(sys.argv[1])
kinds = {"global": KindSpec(shape=(1280,), dims=("feature",))}
cache = FeatureCache.create_or_open(root, CacheSpec(slug="x", content={}, views=2, kinds=kinds))
tasks = timed("first plan", lambda: cache.plan(keys))
pretend_written(cache, tasks)
del tasks
assert timed("plan of a finished cache", lambda: cache.plan(keys)) == []
assert len(timed("open a reader", lambda: cache.reader(keys))) == rows
order = EpochOrder(rows=rows, seed=1)
steps = range(0, rows - 1024, 1024)
timed("shuffle an epoch", lambda: [order.at(0, np.arange(i, i + 1024)) for i in steps])
peak = peak_memory()
print(json.dumps({"seconds": seconds, "peak": peak}))
"""


@pytest.mark.slow
def test_ten_million_images_are_planned_opened_and_shuffled_within_four_gigabytes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path)],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["peak"] < 4 * 2**30, found
    print(found)
