import pickle

import numpy as np
import pytest

from storage.errors import CorruptShardError


def test_rows_follow_the_order_asked_for(sample, keys):
    names = keys(30)
    sample.fill(names)
    shuffled = [names[i] for i in np.random.default_rng(1).permutation(30)]
    reader = sample.cache.reader(shuffled)
    assert (len(reader), reader.views, reader.shape) == (30, 2, (16,))
    np.testing.assert_array_equal(reader.all(1), sample.stacked(shuffled, "global")[1])


def test_a_reader_can_be_pickled_and_holds_no_embeddings(sample, keys):
    names = keys(30)
    sample.fill(names)
    reader = sample.cache.reader(names)
    reader.load_all()
    data = pickle.dumps(reader)
    assert len(data) < 20_000
    np.testing.assert_array_equal(pickle.loads(data).all(0), reader.all(0))


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


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
@pytest.mark.parametrize("kind", ["global", "tokens", "tokens_scale"])
def test_a_damaged_shard_is_named_and_repair_recomputes_just_it(sample, keys, damage, kind):
    names = keys(30)
    sample.fill(names)
    reader = sample.cache.reader(names, kind.split("_")[0])
    path = next(p for p in sample.cache.root.list(f"{sample.cache.base}/{kind}/c/0/1"))
    data = bytearray(sample.cache.root.read(path))
    data[40] ^= 1
    if damage == "flip":
        sample.cache.root.write(path, bytes(data))
    elif damage == "truncate":
        sample.cache.root.write(path, bytes(data[:-9]))
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
