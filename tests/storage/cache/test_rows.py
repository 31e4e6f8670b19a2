"""Many planners at once, of the same images and of different ones."""

import multiprocessing
import threading

import numpy as np
import pytest
import zarr

from storage.cache import FeatureCache
from storage.root import open_root
from storage.testing import SPEC, Sample, some_keys
from tests.storage.cache.published import stored_rows

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
        rows = stored_rows(cache)
        stored = zarr.open_group(cache.root.path(cache.base), mode="r")["global"][:]
        for key in (key for number in range(WRITERS) for key in some_keys(EACH, seed=number)):
            wanted = Sample.values(key)["global"][:, 0]
            np.testing.assert_array_equal(stored[:, rows[key]], wanted)
        assert cache.verify() == []


def _write(sample, task, factor=1):
    arrays = {kind: factor * sample.stacked(task.keys, kind) for kind in SPEC.kinds}
    sample.cache.write_shard(task, arrays)


def test_metadata_that_another_process_left_short_are_mended_before_a_shard_counts(
    sample, tmp_path
):
    first, second = sample.cache.plan(KEYS[:16])
    # As a planner leaves them that is killed between two of its files.
    short = FeatureCache.create_or_open(open_root(tmp_path / "short"), SPEC, rows_per_shard=8)
    short.plan(KEYS[:8])
    name = f"{sample.cache.base}/zarr.json"
    sample.cache.root.write(name, short.root.read(name))
    for task in (first, second):
        _write(sample, task)
        group = zarr.open_group(sample.cache.root.path(sample.cache.base), mode="r")
        assert group["global"].shape[1] == 16
    assert sample.cache.verify() == []


def test_the_loser_of_a_race_leaves_the_winners_files(sample, root):
    base, other = sample.cache.base, FeatureCache.open(open_root(root.url), SPEC.id)
    won = []
    root.before("create", "/rows/000000.json", lambda: won.extend(other.plan(KEYS[:8])))
    assert sample.cache.plan(KEYS[:8]) == won
    assert [task.keys for task in won] == [tuple(KEYS[:8])]
    # One table and its copy: the loser has taken its own away.
    assert sum(path.endswith(".parquet") for path in root.list(f"{base}/rows")) == 2
    sample.fill(KEYS[:8])
    assert sample.cache.verify() == []


def test_a_table_that_no_record_names_is_told_and_removed_by_repair(sample, root):
    sample.fill(KEYS[:8])
    orphans = [f"{sample.cache.base}/rows/{folder}000001-abc.parquet" for folder in ("", "copies/")]
    for orphan in orphans:
        root.write(orphan, b"left by a planner that was killed")
    problems = sample.cache.verify()
    assert [(problem.shard, problem.file) for problem in problems] == [(None, o) for o in orphans]
    assert "no record names it" in problems[0].reason
    sample.cache.repair()
    assert not any(root.exists(orphan) for orphan in orphans)
    assert sample.cache.verify() == []
    assert sample.cache.missing(KEYS[:8]) == []


@pytest.fixture
def followed(sample, monkeypatch):
    """Run the lines of the README where it lies; returns their variables."""
    place = sample.cache.root.path(sample.cache.base)

    def follow():
        monkeypatch.chdir(place)
        code = (place / "README.md").read_text().split("```python")[1].split("```")[0]
        found = {}
        exec(code, found)
        return found

    return follow


def test_the_lines_of_the_readme_work(sample, followed):
    names = KEYS[:20]
    sample.fill(names)
    found = followed()
    assert found["key"] == names[0]
    np.testing.assert_array_equal(found["embedding"], sample.values(names[0])["global"][0, 0])


def test_a_table_of_a_killed_planner_does_not_lead_the_readme_astray(sample, followed):
    names = KEYS[:20]
    sample.cache.plan(names[::-1])
    root, base = sample.cache.root, sample.cache.base
    # As it is left between the table and its record; other images then get the same rows.
    root.delete(f"{base}/rows/000000.json")
    root.delete(f"{base}/rows/copies/000000.json")
    sample.fill(names)
    found = followed()
    assert found["images"]["key"].to_list() == names
    np.testing.assert_array_equal(found["embedding"], sample.values(found["key"])["global"][0, 0])


def test_readme_and_reader_take_the_same_of_several_rows(sample, followed):
    names = KEYS[:20]
    first, *_ = sample.cache.plan(names)
    # Of the first shard one image is gone; the others get new rows, which are not computed.
    later = sample.cache.plan(names[1:])
    for factor, task in enumerate((first, *later[:2]), 1):
        _write(sample, task, factor)
    images = followed()["images"]
    assert dict(images.rows()) == stored_rows(sample.cache)
    assert images.height == 20
    stored = zarr.open_group(".", mode="r")["global"]
    read = sample.cache.reader(images["key"].to_list())
    for view in (0, 1):
        np.testing.assert_array_equal(stored[view][images["row"].to_list()], read.all(view))


def test_a_finished_row_is_not_lost_to_a_later_unfinished_one(sample):
    names = KEYS[:16]
    tasks = sample.cache.plan(names)
    # Another run lacks one image: the other seven of its shard get new rows, not yet computed.
    assert [len(task.keys) for task in sample.cache.plan(names[1:])] == [8, 7]
    for task in tasks:
        _write(sample, task)
    assert sample.cache.missing(names) == []
    assert sample.cache.plan(names) == sample.cache.plan(names[1:]) == []
    np.testing.assert_array_equal(
        sample.cache.reader(names).all(0), sample.stacked(names, "global")[0]
    )
