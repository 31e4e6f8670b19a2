import dataclasses
import json
import multiprocessing
import warnings

import numpy as np
import pytest
import xarray
import zarr

from storage.artifacts import list_artifacts
from storage.cache import CacheSpec, FeatureCache, KindSpec, ShardTask
from storage.cache.spec import choose_layout
from storage.errors import (
    CacheFormatError,
    CacheMismatchError,
    CorruptRecordError,
    MissingObjectError,
    MissingRowsError,
    StorageInputError,
)
from storage.records import seal, unseal
from storage.testing import Sample
from tests.storage.hooked import die


def test_what_is_written_is_read_back(sample, keys):
    names = keys(20)
    assert sample.fill(names) == [0, 1, 2]
    reader = sample.cache.reader(names)
    rng = np.random.default_rng(0)
    views, rows = rng.integers(0, 2, 50), rng.integers(0, 20, 50)
    np.testing.assert_array_equal(
        reader.take(views, rows), sample.stacked(names, "global")[views, rows]
    )
    tokens = sample.cache.reader(names, "tokens").all(1)
    assert tokens.dtype == np.float32
    wanted = sample.stacked(names, "tokens")[1].astype(np.float32)
    np.testing.assert_allclose(tokens, wanted, atol=np.abs(wanted).max() / 250)


def test_planning_is_idempotent_and_persistent(sample, keys, root):
    names = keys(20)
    tasks = sample.cache.plan(names)
    assert [task.shard for task in tasks] == [0, 1, 2]
    assert sum((task.keys for task in tasks), ()) == tuple(names)
    assert FeatureCache.open(root, sample.cache.id).plan(names[::-1]) == tasks
    json.dumps([dataclasses.asdict(task) for task in tasks])


def test_a_rerun_after_a_crash_plans_only_shards_without_a_valid_record(sample, keys):
    names = keys(30)
    tasks = sample.cache.plan(names)
    first = tasks[0]
    sample.cache.write_shard(
        first, {k: sample.stacked(first.keys, k) for k in ("global", "tokens")}
    )
    torn = tasks[2]
    sample.cache.root.write(f"{sample.cache.base}/global/c/0/{torn.shard}/0", b"torn")
    assert sample.cache.plan(names) == [tasks[1], tasks[2], tasks[3]]
    assert sample.cache.missing(names) == names[8:]
    with pytest.raises(MissingRowsError, match="lacks 22 of 30"):
        sample.cache.reader(names)
    assert len(sample.cache.reader(names[:8])) == 8


def test_growth_computes_only_new_images(sample, keys):
    names = keys(30)
    sample.fill(names[:10])
    assert sample.cache.plan(names[5:10]) == []
    assert sample.fill([*names[20:], *names[:10]]) == [2, 3]
    assert sample.fill(names) == [4, 5]
    np.testing.assert_array_equal(
        sample.cache.reader(names).all(0), sample.stacked(names, "global")[0]
    )
    stats = sample.cache.stats()
    assert (stats["rows"], stats["shards"], stats["pending"]) == (30, 6, 0)


def test_an_image_that_vanished_before_it_was_computed_does_not_block_the_rest(sample, keys):
    names = keys(16)
    sample.cache.plan(names)
    assert sample.fill(names[1:]) == [1, 2]
    assert sample.cache.missing(names) == names[:1]
    np.testing.assert_array_equal(
        sample.cache.reader(names[1:]).all(1), sample.stacked(names[1:], "global")[1]
    )


def test_a_shard_that_will_never_be_computed_is_not_pending(sample, keys):
    names = keys(24)
    sample.cache.plan(names)
    assert sample.cache.stats()["pending"] == 3
    assert sample.cache.stats(names[8:])["pending"] == 2
    # One image is gone: the seven others of its shard get new rows, and it is nobody's.
    sample.fill(names[1:])
    assert sample.cache.stats()["pending"] == 0
    # The image is back: one more row, not its seven neighbours once more.
    assert [task.keys for task in sample.cache.plan(names)] == [(names[0],)]
    assert sample.cache.stats()["pending"] == 1
    sample.fill(names)
    assert sample.cache.missing(names) == []
    assert sample.cache.plan(names) == []
    assert sample.cache.stats()["pending"] == 0


def test_repeated_keys_get_one_row(sample, keys):
    names = keys(3)
    sample.fill([*names, *names])
    assert sample.cache.stats()["rows"] == 3
    assert len(sample.cache.reader([names[0], names[0]])) == 2


def _write(sample, task):
    sample.cache.write_shard(task, {k: sample.stacked(task.keys, k) for k in ("global", "tokens")})


def test_several_processes_write_at_once(sample, keys):
    names = keys(32)
    tasks = sample.cache.plan(names)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.starmap(_write, [(sample, task) for task in tasks])
    assert sample.cache.plan(names) == []
    assert sample.cache.verify() == []


def test_a_recorded_shard_is_not_written_again(sample, keys):
    task = sample.cache.plan(keys(4))[0]
    _write(sample, task)
    zeros = {"global": np.zeros((2, 4, 16)), "tokens": np.zeros((2, 4, 3, 8))}
    sample.cache.write_shard(task, zeros)
    assert sample.cache.reader(list(task.keys)).all(0).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"global": None}, "needs 'global'"),
        ({"global": np.zeros((2, 3, 16))}, "needs 'global' of shape"),
        ({"global": np.full((2, 4, 16), np.nan)}, "NaN or infinity"),
        ({"global": np.full((2, 4, 16), 1e6)}, "beyond float16"),
    ],
)
def test_arrays_that_cannot_be_stored_are_refused(sample, keys, change, message):
    task = sample.cache.plan(keys(4))[0]
    arrays = {"global": np.zeros((2, 4, 16)), "tokens": np.zeros((2, 4, 3, 8))} | change
    with pytest.raises(StorageInputError, match=message):
        sample.cache.write_shard(task, {k: v for k, v in arrays.items() if v is not None})
    assert sample.cache.stats()["pending"] == 1


def test_zero_rows_are_values_not_holes(sample, keys):
    task = sample.cache.plan(keys(4))[0]
    zeros = {"global": np.zeros((2, 4, 16)), "tokens": np.zeros((2, 4, 3, 8))}
    sample.cache.write_shard(task, zeros)
    for kind in zeros:
        assert not sample.cache.reader(list(task.keys), kind).all(1).any()


def test_everything_that_determines_values_is_in_the_id(spec):
    other = spec.model_copy(update={"content": {**spec.content, "weights": "0124"}})
    assert other.id != spec.id
    assert spec.model_copy(update={"views": 3}).id != spec.id
    assert spec.id.startswith("tiny-")


def test_a_cache_of_something_else_is_refused_by_name(root, spec):
    cache = FeatureCache.create_or_open(root, spec)
    path = f"{cache.base}/record.json"
    record = unseal(root.read(path), path)
    record["spec"]["content"]["teacher"] = "b"
    root.write(path, seal(record))
    with pytest.raises(CacheMismatchError, match=r"teacher = 'b'.*asks for 'a'"):
        FeatureCache.create_or_open(root, spec)
    root.write(path, seal({**record, "format": 99}))
    with pytest.raises(CacheFormatError, match="format 99"):
        FeatureCache.create_or_open(root, spec)
    for name in (path, f"{cache.base}/record-copy.json"):
        root.write(name, seal(record).replace(b"tiny", b"Tiny", 1))
    with pytest.raises(CorruptRecordError, match="damaged"):
        FeatureCache.open(root, cache.id)


def test_rows_without_a_record_are_refused_rather_than_cut_in_another_way(sample, keys, root):
    sample.fill(keys(20))
    for name in ("record.json", "record-copy.json"):
        root.delete(f"{sample.cache.base}/{name}")
    for opening in (
        lambda: FeatureCache.open(root, sample.cache.id),
        lambda: FeatureCache.create_or_open(root, sample.cache.spec, 16),
    ):
        with pytest.raises(CorruptRecordError, match=r"is missing, and so is .* Delete this cache"):
            opening()


def test_an_existing_cache_keeps_its_layout_and_is_in_the_catalogue(root, spec):
    first = FeatureCache.create_or_open(root, spec, 16, provenance={"torch": "2"})
    assert FeatureCache.create_or_open(root, spec, 32).layout == first.layout
    (thing,) = list_artifacts(root, "caches")
    assert (thing.id, thing.record["provenance"]) == (spec.id, {"torch": "2"})


def test_opening_nothing_says_what_to_run(root):
    with pytest.raises(MissingObjectError, match="tintem extract"):
        FeatureCache.open(root, "none-0000000000")


def test_unknown_kinds_are_refused(sample):
    with pytest.raises(StorageInputError, match="only global, tokens"):
        sample.cache.reader([], "patches")


def test_shards_are_about_32_mib_of_whole_rows():
    wide = KindSpec(shape=(1280,), dims=("feature",))
    tokens = KindSpec(shape=(196, 768), dims=("token", "feature"))

    def rows(kind):
        return choose_layout(CacheSpec(slug="x", content={}, views=2, kinds={"k": kind}), None)

    assert rows(wide).rows_per_shard == 4096
    assert rows(tokens).rows_per_shard == 64
    assert rows(wide).rows_per_shard % rows(wide).rows_per_chunk == 0


def test_a_grid_is_no_part_of_the_id_and_must_hold_the_axis(root, spec):
    flat = KindSpec(shape=(4, 8), dims=("token", "feature"))
    square = flat.model_copy(update={"grid": (2, 2)})
    specs = [spec.model_copy(update={"kinds": {"tokens": kind}}) for kind in (flat, square)]
    one, other = (FeatureCache.create_or_open(root, each).id for each in specs)
    assert one == other
    with pytest.raises(ValueError, match="does not hold 4"):
        KindSpec(shape=(4, 8), dims=("token", "feature"), grid=(2, 3))


@pytest.mark.parametrize("name", ["rows", "a/b", "commits"])
def test_kind_names_that_would_collide_are_refused(name):
    with pytest.raises(ValueError, match="cannot name a kind"):
        CacheSpec(slug="x", content={}, views=1, kinds={name: KindSpec(shape=(1,), dims=("d",))})


def test_tasks_of_an_unknown_shard_are_plain_data():
    assert dataclasses.asdict(ShardTask(3, ("k",))) == {"shard": 3, "keys": ("k",)}


def test_plain_zarr_and_xarray_read_a_cache(sample, keys):
    names = keys(20)
    sample.fill(names)
    place = sample.cache.root.path(sample.cache.base)
    group = zarr.open_group(place, mode="r")
    np.testing.assert_array_equal(group["global"][:, :20], sample.stacked(names, "global"))
    assert np.isnan(group["global"][:, 20:]).all()
    assert np.isnan(group["tokens_scale"][:, 20:]).all()
    assert (group["tokens"][:, 20:] == -128).all()
    for said in (group.attrs["description"], (place / "README.md").read_text()):
        assert "evaluation view" not in said
        assert "-128" in said
    assert "Feature cache" in group.attrs["title"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = xarray.open_zarr(place)
    assert data["global"].dims == ("view", "image", "global_feature")
    assert data["tokens"].dims == ("view", "image", "token", "tokens_feature")
    scaled = data["tokens"] * data["tokens_scale"]
    found = scaled.transpose("view", "image", "token", "tokens_feature").isel(image=slice(20))
    wanted = np.stack([sample.cache.reader(names, "tokens").all(view) for view in (0, 1)])
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_a_shard_whose_recomputation_was_killed_is_planned_again(sample, keys, root):
    names = keys(8)
    sample.fill(names)
    torn = f"{sample.cache.base}/global/c/0/0/0"
    sample.cache.root.write(torn, sample.cache.root.read(torn)[:-1])
    (task,) = sample.cache.plan(names)
    # Other batches, other rounding: as large as before, but with another checksum.
    arrays = {kind: sample.stacked(names, kind) * 1.01 for kind in ("global", "tokens")}
    root.before("write", "/commits/", die)
    with pytest.raises(KeyboardInterrupt):
        sample.cache.write_shard(task, arrays)
    assert sample.cache.plan(names) == [task]
    sample.fill(names)
    assert sample.cache.verify() == []


@pytest.mark.parametrize("name", ["record-copy.json", "rows/copies/000000.json"])
def test_a_copy_that_was_not_written_before_a_kill_is_written_by_the_next_plan(
    root, spec, keys, name
):
    root.before("write", f"/{name}", die)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache.create_or_open(root, spec, 8).plan(keys(20))
    again = Sample(FeatureCache.create_or_open(root, spec, 8))
    again.fill(keys(20))
    assert again.cache.verify() == []
    original = name.replace("-copy", "").replace("/copies", "")
    root.write(f"{again.cache.base}/{original}", b"damaged")
    assert FeatureCache.open(root, spec.id).missing(keys(20)) == []
