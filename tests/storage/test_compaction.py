import numpy as np
import pytest
import zarr

from storage import _rows
from storage.cache import FeatureCache
from storage.testing import SPEC, Sample, some_keys


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
    table = _rows.load(cache.root, cache.base).current
    group = zarr.open_group(cache.root.path(cache.base), mode="r")
    for key, row in table.rows()[::5]:
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


@pytest.mark.parametrize("moment", ["reserve", "copy", "switch", "delete"])
def test_a_compaction_killed_at_any_moment_loses_nothing(appended, moment, monkeypatch):
    names, cache = some_keys(40), appended.cache

    def die(*_arguments):
        raise KeyboardInterrupt

    target = {
        "reserve": "storage.compaction._copy_rows",
        "copy": "storage._commits.write_commit",
        "switch": "storage.compaction._switch",
        "delete": "storage.cache.FeatureCache.withdraw",
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(target, die)
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


def test_an_append_during_a_compaction_is_kept(appended, monkeypatch):
    names, more = some_keys(40), some_keys(50)
    publish, raced = _rows.publish, []

    def race(root, base, number, purpose, table, shards):
        if purpose == "switch" and not raced:
            raced.append(True)
            monkeypatch.setattr(_rows, "publish", publish)
            appended.fill(more)
        return publish(root, base, number, purpose, table, shards)

    monkeypatch.setattr(_rows, "publish", race)
    appended.cache.compact()
    assert raced
    assert appended.cache.plan(more) == []
    check(appended, more)
    assert appended.cache.plan(names) == []


@pytest.mark.slow
def test_ten_thousand_images_in_a_hundred_appends(root):
    sample = Sample(FeatureCache.create_or_open(root, SPEC, rows_per_shard=1024))
    names = some_keys(10_000)
    for start in range(0, 10_000, 100):
        sample.fill(names[: start + 100])
    assert sample.cache.compact().shards_after == 10
    check(sample, names)
