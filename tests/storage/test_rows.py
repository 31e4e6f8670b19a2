"""Many planners at once, of the same images and of different ones."""

import multiprocessing
import threading

import numpy as np
import polars as pl
import zarr

from storage import _rows, _zarr
from storage.cache import FeatureCache
from storage.root import open_root
from storage.testing import SPEC, Sample, some_keys

ROUNDS, THREADS, PROCESSES = 12, 4, 2
CACHES, WRITERS, EACH = 6, 4, 12
KEYS = some_keys(100)


def _plan_again_and_again(folder, barrier, found):
    for i in range(ROUNDS):
        cache = FeatureCache.open(open_root(folder / str(i)), SPEC.id)

        def plan(cache=cache):
            shards = None
            try:
                shards = [task.shard for task in cache.plan(KEYS)]
            finally:
                found.put(shards)

        threads = [threading.Thread(target=plan) for _ in range(THREADS)]
        barrier.wait(timeout=60)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def test_threads_and_processes_that_plan_the_same_images_agree(tmp_path):
    for i in range(ROUNDS):
        FeatureCache.create_or_open(open_root(tmp_path / str(i)), SPEC, rows_per_shard=16)
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(PROCESSES), context.SimpleQueue()
    arguments = (tmp_path, barrier, found)
    workers = [
        context.Process(target=_plan_again_and_again, args=arguments) for _ in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    plans = [found.get() for _ in range(ROUNDS * THREADS * PROCESSES)]
    for worker in workers:
        worker.join()
    assert plans == [list(range(7))] * len(plans)
    for i in range(ROUNDS):
        cache = FeatureCache.open(open_root(tmp_path / str(i)), SPEC.id)
        assert cache.stats()["pending"] == 7
        assert cache.verify() == []


def _plan_and_write(folder, number, barrier):
    for i in range(CACHES):
        sample = Sample(FeatureCache.open(open_root(folder / str(i)), SPEC.id))
        barrier.wait(timeout=60)
        sample.fill(some_keys(EACH, seed=number))


def test_processes_that_add_different_images_leave_zarr_metadata_for_all_of_them(tmp_path):
    for i in range(CACHES):
        FeatureCache.create_or_open(open_root(tmp_path / str(i)), SPEC, rows_per_shard=4)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(WRITERS)
    workers = [
        context.Process(target=_plan_and_write, args=(tmp_path, number, barrier))
        for number in range(WRITERS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i in range(CACHES):
        cache = FeatureCache.open(open_root(tmp_path / str(i)), SPEC.id)
        rows = dict(_rows.load(cache.root, cache.base).current.rows())
        stored = zarr.open_group(cache.root.path(cache.base), mode="r")["global"][:]
        for key in (key for number in range(WRITERS) for key in some_keys(EACH, seed=number)):
            wanted = Sample.values(key)["global"][:, 0]
            np.testing.assert_array_equal(stored[:, rows[key]], wanted)
        assert cache.verify() == []


def test_metadata_that_another_process_left_short_are_mended_before_a_shard_counts(sample):
    first, second = sample.cache.plan(KEYS[:16])
    # As a planner leaves them that is killed between two of its files.
    short = _zarr.metadata_files(SPEC, sample.cache.layout, 8)
    sample.cache.root.write(f"{sample.cache.base}/zarr.json", short["zarr.json"])
    for task in (first, second):
        sample.cache.write_shard(
            task, {kind: sample.stacked(task.keys, kind) for kind in SPEC.kinds}
        )
        group = zarr.open_group(sample.cache.root.path(sample.cache.base), mode="r")
        assert group["global"].shape[1] == 16
    assert sample.cache.verify() == []


def test_the_loser_of_a_race_leaves_the_winners_files(sample, root):
    keys = pl.Series("key", KEYS[:8])
    base = sample.cache.base
    shards, table = _rows.allocate(keys, 0, 8), _rows.table_of(keys, 0, 8)
    assert [_rows.publish(root, base, 0, "append", table, shards) for _ in range(2)] == [
        True,
        False,
    ]
    assert _rows.load(root, base).assigned["key"].to_list() == KEYS[:8]
    assert sample.cache.verify() == []
    # One table and its copy: the loser has taken its own away.
    assert sum(path.endswith(".parquet") for path in root.list(f"{base}/rows")) == 2


def test_a_table_that_no_record_names_is_removed_by_repair(sample, root):
    sample.fill(KEYS[:8])
    orphan = f"{sample.cache.base}/rows/000001-abc.parquet"
    root.write(orphan, b"left by a planner that was killed")
    sample.cache.repair()
    assert not root.exists(orphan)
    assert sample.cache.missing(KEYS[:8]) == []
