"""The same promises on an S3 protocol server."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from storage.cache import FeatureCache
from storage.copies import CopyFolder
from storage.errors import CorruptShardError, StorageInputError
from storage.root import open_root
from storage.testing import SPEC, Sample, check_root, some_keys


@pytest.fixture
def remote(s3_url):
    return Sample(FeatureCache.create_or_open(open_root(s3_url), SPEC, rows_per_shard=8))


def test_s3_keeps_the_contract(s3_url):
    root = open_root(s3_url)
    assert root.path("x") is None
    check_root(root)


def test_a_cache_on_s3_grows_resumes_and_reads(remote, tmp_path):
    names = some_keys(30)
    tasks = remote.cache.plan(names[:20])
    remote.cache.write_shard(tasks[0], {k: remote.stacked(tasks[0].keys, k) for k in SPEC.kinds})
    assert remote.cache.plan(names[:20]) == tasks[1:]
    assert remote.fill(names) == [1, 2, 3, 4]
    reader = remote.cache.reader(names, copies=CopyFolder(tmp_path / "copies"))
    np.testing.assert_array_equal(reader.all(1), remote.stacked(names, "global")[1])
    assert remote.cache.verify() == []
    assert (tmp_path / "copies").exists()


def test_reading_stays_within_the_limit_of_the_copies_folder(remote, tmp_path):
    names = some_keys(64)
    remote.fill(names)
    copies = CopyFolder(tmp_path / "copies", limit_bytes=2_500)
    reader = remote.cache.reader(names, copies=copies)
    rng = np.random.default_rng(0)
    wanted = remote.stacked(names, "global")
    for _ in range(3):
        views, rows = rng.integers(0, 2, 40), rng.integers(0, 64, 40)
        np.testing.assert_array_equal(reader.take(views, rows), wanted[views, rows])
        assert 0 < copies.size() <= 2_500


def test_copies_are_used_again_unless_damaged(remote, tmp_path, monkeypatch):
    names = some_keys(16)
    remote.fill(names)
    copies = CopyFolder(tmp_path / "copies")
    remote.cache.reader(names, copies=copies).load_all()
    damaged = next(copies.folder.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:50] + b"x" + damaged.read_bytes()[51:])
    reads = []
    read = type(remote.cache.root).read

    def note(self, path):
        reads.append(path)
        return read(self, path)

    reader = remote.cache.reader(names, copies=copies)
    monkeypatch.setattr(type(remote.cache.root), "read", note)
    np.testing.assert_array_equal(reader.all(0), remote.stacked(names, "global")[0])
    assert len(reads) == 1


def test_a_damaged_remote_shard_is_named(remote, tmp_path):
    names = some_keys(16)
    remote.fill(names)
    path = f"{remote.cache.base}/global/c/0/1/0"
    data = remote.cache.root.read(path)
    remote.cache.root.write(path, data[:60] + bytes([data[60] ^ 4]) + data[61:])
    reader = remote.cache.reader(names, copies=CopyFolder(tmp_path / "copies"))
    with pytest.raises(CorruptShardError, match="Shard 1 of s3://"):
        reader.all(0)
    assert remote.cache.repair() == [1]
    assert remote.fill(names) == [1]


def _spawned(reader, queue):
    queue.put(reader.all(0))


def test_spawned_workers_read_for_themselves(remote, tmp_path):
    names = some_keys(16)
    remote.fill(names)
    reader = remote.cache.reader(names, copies=CopyFolder(tmp_path / "copies"))
    assert len(pickle.dumps(reader)) < 20_000
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_spawned, args=(reader, queue))
    process.start()
    np.testing.assert_array_equal(queue.get(timeout=60), remote.stacked(names, "global")[0])
    process.join()


def test_a_forked_worker_says_what_to_do_instead_of_hanging(remote, tmp_path):
    names = some_keys(16)
    remote.fill(names)
    loaded = remote.cache.reader(names, copies=CopyFolder(tmp_path / "copies"))
    loaded.load_all()
    late = remote.cache.reader(names, copies=CopyFolder(tmp_path / "other"))
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        loaded.all(0)
        try:
            late.all(0)
        except StorageInputError as error:
            os._exit(0 if "load_all()" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


_WRITER = """
import sys
from storage.cache import FeatureCache
from storage.root import open_root
from storage.testing import SPEC, Sample, some_keys
Sample(FeatureCache.create_or_open(open_root(sys.argv[1]), SPEC, 8)).fill(some_keys(800))
"""


@pytest.mark.parametrize("where", ["s3", "folder"])
def test_a_killed_extraction_resumes_with_exactly_what_is_missing(s3_url, tmp_path, where):
    url = s3_url if where == "s3" else str(tmp_path / "root")
    names, root = some_keys(800), open_root(url)
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, url])
    commits = f"caches/{SPEC.id}/commits"
    while len(root.list(commits)) < 5 and writer.poll() is None:
        time.sleep(0.01)
    writer.kill()
    writer.wait()
    done = len(root.list(commits))
    cache = FeatureCache.open(root, SPEC.id)
    assert 5 <= done < 100
    assert cache.verify() == []
    todo = cache.plan(names)
    assert len(todo) == 100 - done
    assert Sample(cache).fill(names) == [task.shard for task in todo]
    np.testing.assert_array_equal(
        cache.reader(names, copies=CopyFolder(tmp_path / "copies")).all(0)[::97],
        Sample.stacked(names[::97], "global")[0],
    )


def test_an_upload_that_breaks_off_leaves_nothing_visible(s3_endpoint, s3_url):
    import http.client

    root = open_root(s3_url)
    bucket = s3_url.split("/")[2]
    connection = http.client.HTTPConnection(s3_endpoint.removeprefix("http://"), timeout=5)
    connection.putrequest("PUT", f"/{bucket}/some/prefix/half")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    connection.send(b"x" * 1000)
    connection.close()
    assert root.list() == []
