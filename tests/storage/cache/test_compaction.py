import numpy as np
import pytest
import zarr

from storage.cache import FeatureCache
from storage.root import open_root
from storage.testing import SPEC, Sample, some_keys
from tests.storage.cache.published import stored_rows
from tests.storage.hooked import die


@pytest.fixture
def appended(root):
    """Forty images in ten small appends."""
    sample = Sample(FeatureCache.create_or_open(root, SPEC, rows_per_shard=16))
    names = some_keys(40)
    for start in range(0, 40, 4):
        sample.fill(names[: start + 4])
    return sample


def check(sample, names):
    for kind in SPEC.kinds:
        wanted = sample.stacked(names, kind)[1].astype(np.float32)
        found = sample.cache.reader(names, kind).all(1)
        np.testing.assert_allclose(found, wanted, atol=0 if kind == "global" else 0.05)


def test_part_filled_shards_become_full_ones_and_nothing_is_recomputed(appended):
    names, cache = some_keys(40), appended.cache
    exact = cache.reader(names, "tokens").all(0)
    done = cache.compact()
    assert (done.moved_rows, done.shards_before, done.shards_after) == (40, 10, 3)
    assert cache.plan(names) == []
    assert cache.verify() == []
    check(appended, names)
    np.testing.assert_array_equal(cache.reader(names, "tokens").all(0), exact)
    assert len(cache.root.list(f"{cache.base}/commits")) == 3
    assert len(cache.root.list(f"{cache.base}/global/c")) == 3
    assert len(cache.root.list(f"{cache.base}/rows")) == 4
    assert cache.compact().moved_rows == 0


def test_a_compacted_cache_grows_and_is_ordinary_zarr(appended):
    names, cache = some_keys(45), appended.cache
    cache.compact()
    appended.fill(names)
    check(appended, names)
    group = zarr.open_group(cache.root.path(cache.base), mode="r")
    for key, row in list(stored_rows(cache).items())[::5]:
        np.testing.assert_array_equal(group["global"][:, row], appended.values(key)["global"][:, 0])


def test_images_that_are_gone_are_left_behind(appended):
    names, cache = some_keys(40), appended.cache
    assert cache.compact(keep=names[:16]).shards_after == 1
    assert cache.missing(names) == names[16:]
    check(appended, names[:16])
    appended.fill(names)
    check(appended, names)


def test_full_shards_and_unfinished_ones_are_left_alone(root):
    sample = Sample(FeatureCache.create_or_open(root, SPEC, rows_per_shard=16))
    names = some_keys(75)
    sample.fill(names[:40])
    for start in range(40, 64, 4):
        sample.fill(names[: start + 4])
    pending = sample.cache.plan(names)
    assert sample.cache.compact().moved_rows == 24
    assert sample.cache.plan(names) == pending
    sample.fill(names)
    check(sample, names)


def test_a_shard_that_waits_for_an_image_that_is_gone_is_forgotten(root):
    sample = Sample(FeatureCache.create_or_open(root, SPEC, rows_per_shard=16))
    names = some_keys(40)
    sample.cache.plan(names[:16])
    sample.fill(names[1:])
    waiting = sample.cache.plan(some_keys(8, seed=1))
    assert sample.cache.compact().shards_after == 4
    assert sample.cache.plan(some_keys(8, seed=1)) == waiting
    assert sample.cache.plan(names[1:]) == []
    assert sample.cache.verify() == []
    check(sample, names[1:])


def test_many_row_tables_become_one_even_where_every_shard_is_full(root):
    sample = Sample(FeatureCache.create_or_open(root, SPEC, rows_per_shard=2))
    names = some_keys(66)
    for start in range(0, 66, 2):
        sample.fill(names[: start + 2])
    done = sample.cache.compact()
    assert (done.moved_rows, done.shards_after) == (0, 33)
    # A record and a table, and a copy of both.
    assert len(root.list(f"{sample.cache.base}/rows")) == 4
    assert sample.cache.verify() == []
    check(sample, names)


def test_how_finely_a_cache_is_cut_is_told_before_and_after(root):
    sample = Sample(FeatureCache.create_or_open(root, SPEC, rows_per_shard=64))
    names = some_keys(36)
    for start in range(0, 34, 2):
        sample.fill(names[: start + 2])
    before = sample.cache.fragmentation()
    assert (before.shards, before.compacted, before.is_high) == (17, 1, True)
    assert sample.cache.compact().shards_after == before.compacted
    after = sample.cache.fragmentation()
    assert (after.shards, after.compacted, after.is_high) == (1, 1, False)
    sample.fill(names)
    assert not sample.cache.fragmentation().is_high


def before_the_switch(root, call):
    """Call between the last new shard and the record that makes them count."""
    root.before("write", "/commits/", lambda: root.before("create", "/rows/", call))


MOMENTS = {
    "reserve": lambda root: root.before("write", "/global/c/", die),
    "copy": lambda root: root.before("write", "/commits/", die),
    "switch": lambda root: before_the_switch(root, die),
    "delete": lambda root: before_the_switch(root, lambda: root.before("delete", "/commits/", die)),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_compaction_killed_at_any_moment_loses_nothing(appended, moment, root):
    names, cache = some_keys(40), appended.cache
    MOMENTS[moment](root)
    with pytest.raises(KeyboardInterrupt):
        cache.compact()
    check(appended, names)
    assert cache.plan(names) == []
    assert cache.repair() == []
    assert cache.verify() == []
    check(appended, names)
    cache.compact()
    assert cache.stats()["shards"] == 3
    check(appended, names)


def test_a_switch_that_was_not_copied_before_a_kill_is_copied_by_the_next_compaction(
    appended, root
):
    before_the_switch(root, lambda: root.before("write", ".json", die))
    with pytest.raises(KeyboardInterrupt):
        appended.cache.compact()
    assert [problem.reason[-11:] for problem in appended.cache.verify()] == ["is missing."]
    appended.cache.compact()
    assert appended.cache.verify() == []
    check(appended, some_keys(40))


def test_a_generation_that_is_forgotten_while_it_is_copied_stays_forgotten(appended, root):
    cache = appended.cache
    (first, *_) = [p for p in root.list(f"{cache.base}/rows/copies") if p.endswith(".json")]
    root.delete(first)
    root.before("write", first, lambda: FeatureCache.open(root, cache.id).compact())
    cache.plan(some_keys(40))
    assert not root.exists(first)
    assert cache.verify() == []
    check(appended, some_keys(40))


def test_an_append_during_a_compaction_is_kept(appended, root):
    names, more, raced = some_keys(40), some_keys(50), []
    before_the_switch(root, lambda: raced.extend(appended.fill(more)))
    appended.cache.compact()
    assert raced
    assert appended.cache.plan(more) == []
    check(appended, more)
    assert appended.cache.plan(names) == []


@pytest.mark.slow
def test_ten_thousand_images_in_a_hundred_appends_end_as_in_one_write(root, tmp_path):
    sample = Sample(FeatureCache.create_or_open(root, SPEC, rows_per_shard=1024))
    names = some_keys(10_000)
    for start in range(0, 10_000, 100):
        sample.fill(names[: start + 100])
    assert sample.cache.fragmentation().is_high
    assert sample.cache.compact().shards_after == 10
    check(sample, names)
    at_once = Sample(
        FeatureCache.create_or_open(open_root(tmp_path / "at-once"), SPEC, rows_per_shard=1024)
    )
    at_once.fill(names)
    assert sample.cache.stats() == at_once.cache.stats()
    for kind in SPEC.kinds:
        files = [
            {path: cache.root.read(path) for path in cache.root.list(f"{cache.base}/{kind}/c")}
            for cache in (sample.cache, at_once.cache)
        ]
        # The same bytes in the same order, under other numbers.
        assert _by_number(files[0]) == _by_number(files[1])


def _by_number(files):
    return [
        files[path] for path in sorted(files, key=lambda p: int(p.split("/c/0/")[1].split("/")[0]))
    ]
