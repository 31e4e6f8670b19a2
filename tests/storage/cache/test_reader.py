import multiprocessing
import pickle

import numpy as np
import pytest

from storage.cache import CacheSpec, FeatureCache, KindSpec
from storage.cache.spec import Layout
from storage.cache.zarr_format import ArraySpec, decode_shard, encode_shard, plain_size
from storage.copies import CopyFolder
from storage.errors import CorruptShardError
from storage.testing import damaged, in_another_process


def test_rows_follow_the_order_asked_for(sample, keys):
    names = keys(30)
    sample.fill(names)
    shuffled = [names[i] for i in np.random.default_rng(1).permutation(30)]
    reader = sample.cache.reader(shuffled)
    assert (len(reader), reader.views, reader.shape) == (30, 2, (16,))
    np.testing.assert_array_equal(reader.all(1), sample.stacked(shuffled, "global")[1])


def test_a_reader_can_be_sent_to_another_process_and_takes_no_embeddings_along(sample, keys):
    names = keys(30)
    sample.fill(names)
    reader = sample.cache.reader(names)
    reader.load_all()
    assert len(pickle.dumps(reader)) < 20_000
    np.testing.assert_array_equal(in_another_process(reader.all, 0), reader.all(0))


def test_a_small_cache_may_be_held_in_memory(sample, keys):
    names = keys(30)
    sample.fill(names)
    reader = sample.cache.reader(names, memory_bytes=10**6)
    reader.load_all()
    sample.cache.root.delete(f"{sample.cache.base}/global")
    np.testing.assert_array_equal(reader.all(0), sample.stacked(names, "global")[0])


@pytest.mark.parametrize(("views", "rows"), [([2], [0]), ([-1], [0]), ([0], [3]), ([0], [-1])])
def test_places_out_of_range_are_refused(sample, keys, views, rows):
    sample.fill(keys(3))
    with pytest.raises(IndexError):
        sample.cache.reader(keys(3)).take(np.array(views), np.array(rows))


def test_an_empty_batch_is_empty(sample, keys):
    sample.fill(keys(3))
    none = np.array([], int)
    assert sample.cache.reader(keys(3), "tokens").take(none, none).shape == (0, 3, 8)


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete"])
@pytest.mark.parametrize("kind", ["global", "tokens", "tokens_scale"])
def test_a_damaged_shard_is_named_and_repair_recomputes_just_it(sample, keys, harm, kind):
    names = keys(30)
    sample.fill(names)
    reader = sample.cache.reader(names, kind.split("_")[0])
    path = next(p for p in sample.cache.root.list(f"{sample.cache.base}/{kind}/c/0/1"))
    data = sample.cache.root.read(path)
    if harm == "flip":
        sample.cache.root.write(path, damaged(data, 40))
    elif harm == "truncate":
        sample.cache.root.write(path, data[:-9])
    else:
        sample.cache.root.delete(path)
    reader.take(np.zeros(8, int), np.arange(8))
    with pytest.raises(CorruptShardError, match=r"Shard 1 of .*tintem repair"):
        reader.all(0)
    assert [problem.shard for problem in sample.cache.verify()] == [1]
    assert sample.cache.repair() == [1]
    assert sample.cache.verify() == []
    assert sample.fill(names) == [1]
    np.testing.assert_array_equal(
        sample.cache.reader(names).all(1), sample.stacked(names, "global")[1]
    )


def test_int8_rows_can_be_taken_as_stored(sample, keys):
    names = keys(12)
    sample.fill(names)
    reader, where = sample.cache.reader(names, "tokens"), (np.array([1, 0]), np.array([11, 3]))
    values, scales = reader.take_stored(*where)
    assert (values.dtype, scales.dtype) == (np.int8, np.float32)
    np.testing.assert_array_equal(values * scales[:, None, None], reader.take(*where))
    assert sample.cache.reader(names).take_stored(*where)[1] is None


CODECS = ("zstd", "blosc-shuffle", "blosc-bitshuffle")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("memory_bytes", [0, 10**6])
def test_an_archive_is_smaller_and_reads_the_same(root, keys, tmp_path, memory_bytes, codec):
    kinds = {"global": KindSpec(shape=(64,), dims=("feature",), dtype="float16")}
    spec = CacheSpec(slug="archive", content={}, views=2, kinds=kinds)
    cache = FeatureCache.create_or_open(root, spec, 64, codec=codec)
    names = keys(100)
    values = np.random.default_rng(0).integers(0, 3, (2, 100, 64)).astype(np.float16)
    for task in cache.plan(names):
        places = [names.index(key) for key in task.keys]
        cache.write_shard(task, {"global": values[:, places]})
    assert cache.stats()["bytes"]["global"] < values.nbytes / 2
    copies = CopyFolder(tmp_path / "copies")
    reader = cache.reader(names, memory_bytes=memory_bytes, copies=copies)
    for view in (0, 1):
        np.testing.assert_array_equal(reader.all(view), values[view])
    assert bool(copies.size()) == (memory_bytes == 0)
    path = f"{cache.base}/global/c/0/1/0"
    cache.root.write(path, damaged(cache.root.read(path), 30))
    again = cache.reader(names, memory_bytes=10**6)
    with pytest.raises(CorruptShardError, match="Shard 1"):
        again.load_all()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rows", [1, 39, 64])
@pytest.mark.parametrize("dtype", ["float16", "int8", "float32"])
def test_a_shard_is_unpacked_into_the_bytes_that_zarr_writes(rows, dtype, codec):
    kind = ArraySpec("tokens", "tokens", (3, 16), ("token", "feature"), dtype)
    packed = Layout(rows_per_shard=64, rows_per_chunk=8, codec=codec)
    values = np.random.default_rng(rows).integers(0, 5, (2, rows, 3, 16)).astype(dtype)
    plain = encode_shard(kind, packed.model_copy(update={"codec": "none"}), values)
    assert decode_shard(kind, packed, 2, encode_shard(kind, packed, values)) == plain
    assert len(plain) == plain_size(kind, packed, 2, rows)


def test_dataloader_workers_and_forked_processes_read_the_same(sample, keys):
    names = keys(40)
    sample.fill(names)
    reader = sample.cache.reader(names)
    wanted = sample.stacked(names, "global")[1]
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            for part in pool.map(reader.all, [1, 1]):
                np.testing.assert_array_equal(part, wanted)


def test_reading_more_shards_than_may_be_mapped_at_once(sample, keys, monkeypatch):
    names = keys(80)
    sample.fill(names)
    monkeypatch.setattr("storage.cache.shards._MOST_MAPPINGS", 3)
    reader = sample.cache.reader(names)
    order = np.random.default_rng(0).permutation(80)
    for _ in range(2):
        found = reader.take(np.zeros(80, int), order)
        np.testing.assert_array_equal(found, sample.stacked(names, "global")[0][order])
    assert reader._values._ready.sum() <= 3


def test_every_row_of_a_large_int8_batch_has_its_own_scale(sample, keys, monkeypatch):
    names = keys(30)
    sample.fill(names)
    reader = sample.cache.reader(names, "tokens")
    views, rows = np.arange(30) % 2, np.arange(30)[::-1]
    values, scales = reader.take_stored(views, rows)
    assert len(np.unique(scales)) > 20
    # Three rows at a time.
    monkeypatch.setattr("storage.cache.reader._CACHED_BYTES", 3 * 24)
    np.testing.assert_array_equal(reader.take(views, rows), values * scales[:, None, None])
