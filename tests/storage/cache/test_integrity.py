"""One flipped bit anywhere: detected, or provably harmless; never a silently wrong row."""

import numpy as np
import polars as pl
import pytest
import zarr

from storage.cache import FeatureCache
from storage.errors import StorageError
from storage.root import open_root
from storage.testing import SPEC, Sample, damaged, some_keys


@pytest.fixture
def grown(tmp_path):
    """Two generations, three shards, one of them part-filled."""
    cache = FeatureCache.create_or_open(open_root(tmp_path), SPEC, rows_per_shard=8)
    sample = Sample(cache)
    sample.fill(some_keys(16))
    sample.fill(some_keys(20))
    return sample


def read_everything(root, cache_id, names):
    cache = FeatureCache.open(root, cache_id)
    return {kind: [cache.reader(names, kind).all(v) for v in (0, 1)] for kind in SPEC.kinds}


def positions(data, path):
    chosen = np.random.default_rng(len(path)).integers(0, len(data), 2).tolist()
    return sorted({0, len(data) // 2, len(data) - 1, *chosen})


def test_every_file_of_a_cache_may_be_damaged_without_one_wrong_row(grown):
    names, root, base = some_keys(20), grown.cache.root, grown.cache.base
    truth = read_everything(root, grown.cache.id, names)
    files = root.list(base)
    assert len(files) > 20
    for path in files:
        data = root.read(path)
        for place in positions(data, path):
            root.write(path, damaged(data, place, bit=place % 8))
            where = f"{path} at {place}"
            problems = FeatureCache.open(root, grown.cache.id).verify()
            assert path in [problem.file for problem in problems], where
            try:
                found = read_everything(root, grown.cache.id, names)
            except StorageError:
                continue
            for kind, views in truth.items():
                np.testing.assert_array_equal(found[kind], views, err_msg=where)
        root.write(path, data)
    assert grown.cache.verify() == []


def test_repair_brings_every_damaged_file_back(grown):
    names, root = some_keys(20), grown.cache.root
    truth = read_everything(root, grown.cache.id, names)
    for i, path in enumerate(root.list(grown.cache.base)):
        data = root.read(path)
        if i % 2:
            root.delete(path)
        else:
            root.write(path, damaged(data, len(data) // 2))
        cache = FeatureCache.open(root, grown.cache.id)
        dropped = cache.repair()
        assert len(dropped) <= 1, path
        assert cache.verify() == [], path
        again = Sample(cache).fill(names)
        assert set(dropped) <= set(again), path
        assert len(again) <= 1, path
        for kind, views in truth.items():
            np.testing.assert_array_equal(
                read_everything(root, cache.id, names)[kind], views, err_msg=path
            )


def test_plain_zarr_notices_a_flipped_bit_in_a_shard_too(grown):
    root, base = grown.cache.root, grown.cache.base
    path = f"{base}/global/c/0/0/0"
    data = root.read(path)
    truth = zarr.open_group(root.path(base), mode="r")["global"][:, :8]
    for place in range(0, len(data), 7):
        root.write(path, damaged(data, place))
        try:
            found = zarr.open_group(root.path(base), mode="r")["global"][:, :8]
        except (ValueError, OverflowError):
            continue
        np.testing.assert_array_equal(found, truth, err_msg=str(place))


def test_a_shard_file_of_another_cache_is_noticed(grown, tmp_path):
    other = Sample(FeatureCache.create_or_open(open_root(tmp_path / "other"), SPEC, 8))
    other.fill(some_keys(16, seed=5))
    path = f"{grown.cache.base}/global/c/0/1/0"
    for name in (path, f"{grown.cache.base}/commits/00000001.json"):
        grown.cache.root.write(name, other.cache.root.read(name))
        assert [problem.shard for problem in grown.cache.verify()] == [1]
    assert grown.cache.missing(some_keys(20)) == some_keys(20)[8:16]


def test_a_shard_of_the_same_images_by_another_teacher_is_noticed(grown):
    spec = SPEC.model_copy(update={"content": {**SPEC.content, "teacher": "b"}})
    other = Sample(FeatureCache.create_or_open(grown.cache.root, spec, 8))
    other.fill(some_keys(20)[:16])
    for name in ("global/c/0/1/0", "tokens/c/0/1/0/0", "commits/00000001.json"):
        data = other.cache.root.read(f"{other.cache.base}/{name}")
        grown.cache.root.write(f"{grown.cache.base}/{name}", data)
    assert [problem.shard for problem in grown.cache.verify()] == [1]
    assert grown.cache.missing(some_keys(20)) == some_keys(20)[8:16]


@pytest.mark.parametrize("name", ["record.json", "record-copy.json"])
def test_the_record_of_another_cache_is_noticed_and_the_other_copy_counts(grown, name):
    root, base = grown.cache.root, grown.cache.base
    spec = SPEC.model_copy(update={"content": {**SPEC.content, "teacher": "b"}})
    other = FeatureCache.create_or_open(root, spec, 8)
    root.write(f"{base}/{name}", root.read(f"{other.base}/{name}"))
    found = FeatureCache.open(root, grown.cache.id)
    assert found.spec == SPEC
    assert [problem.file for problem in found.verify()] == [f"{base}/{name}"]
    assert found.repair() == []
    assert found.verify() == []
    for copy in ("record.json", "record-copy.json"):
        root.write(f"{base}/{copy}", root.read(f"{other.base}/{copy}"))
    with pytest.raises(StorageError, match="is damaged, and so is the copy"):
        FeatureCache.open(root, grown.cache.id)


@pytest.mark.parametrize("folder", ["rows", "rows/copies"])
@pytest.mark.parametrize("donor", ["an older generation", "another cache"])
def test_the_record_of_other_rows_is_noticed_and_the_other_copy_counts(grown, donor, folder):
    root, base, names = grown.cache.root, grown.cache.base, some_keys(20)
    truth = read_everything(root, grown.cache.id, names)
    taken = f"{base}/rows/000000.json"
    if donor == "another cache":
        spec = SPEC.model_copy(update={"content": {**SPEC.content, "teacher": "b"}})
        other = Sample(FeatureCache.create_or_open(root, spec, 8))
        other.fill(some_keys(16, seed=5))
        other.fill(some_keys(16, seed=6))
        taken = f"{other.cache.base}/rows/000001.json"
    path = f"{base}/{folder}/000001.json"
    root.write(path, root.read(taken))
    assert [problem.file for problem in grown.cache.verify()] == [path]
    for kind, views in truth.items():
        np.testing.assert_array_equal(read_everything(root, grown.cache.id, names)[kind], views)
    assert grown.cache.repair() == []
    assert grown.cache.verify() == []


def test_a_row_table_lost_with_its_copy_costs_only_its_own_shards(grown):
    root, base = grown.cache.root, grown.cache.base
    for path in root.list(f"{base}/rows"):
        if "/000001" in path:
            root.write(path, b"gone")
    with pytest.raises(StorageError, match="tintem repair"):
        grown.cache.stats()
    assert grown.cache.repair() == []
    assert grown.cache.verify() == []
    assert grown.cache.missing(some_keys(20)) == some_keys(20)[16:]
    assert len(grown.fill(some_keys(20))) == 1


def test_leftovers_of_nobody_are_removed_by_repair(grown):
    root, base = grown.cache.root, grown.cache.base
    root.write(f"{base}/global/c/0/99/0", b"left over")
    (root.path(base) / "global" / ".half.part").write_bytes(b"x")
    assert grown.cache.repair() == []
    assert f"{base}/global/c/0/99/0" not in root.list(base)
    assert not (root.path(base) / "global" / ".half.part").exists()


def test_files_of_strangers_are_left_alone_by_everything(grown):
    root, base, names = grown.cache.root, grown.cache.base, some_keys(20)
    strangers = [
        f"{base}/{folder}/{name}"
        for folder in ("rows", "rows/copies", "commits", "global/c/0", "tokens_scale/c/0")
        for name in (".DS_Store", ".nfs0001", "._000000.json", "000000 (copy).json")
    ]
    for path in strangers:
        root.write(path, b"not ours")
    assert grown.cache.verify() == []
    assert grown.cache.repair() == []
    assert grown.cache.compact(fullness=1, keep=names[4:12]).shards_after == 1
    assert grown.cache.verify() == []
    assert grown.fill(names) == [4, 5]
    assert set(strangers) <= set(root.list(base))
    read_everything(root, grown.cache.id, names)


def test_the_row_table_is_readable_by_a_stranger(grown):
    folder = grown.cache.root.path(grown.cache.base)
    table = pl.read_parquet(folder / "rows" / "*.parquet")
    assert table["key"].to_list() == some_keys(20)
    assert table["row"].to_list() == list(range(20))
