"""A root on an S3 protocol server, and a cache on it."""

import contextlib
import http.client
import http.server
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest

from storage.cache import FeatureCache
from storage.copies import CopyFolder
from storage.errors import CorruptShardError, DeniedError, StorageError, StorageInputError
from storage.images import SourceConfig, build_manifest
from storage.lease import hold
from storage.root import open_root
from storage.testing import SPEC, RootTests, Sample, some_keys


class TestS3(RootTests):
    @pytest.fixture
    def root(self, s3_url):
        return open_root(s3_url)

    def test_there_are_no_local_files(self, root):
        assert root.path("x") is None


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


@pytest.mark.slow
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


USES = [
    lambda root: root.read("a"),
    lambda root: root.read_range("a", 0, 1),
    lambda root: root.write("a", b"x"),
    lambda root: root.create("a", b"x"),
    lambda root: root.exists("a"),
    lambda root: root.list(),
    lambda root: root.folders(),
    lambda root: root.delete("a"),
]


def test_a_missing_bucket_is_told_by_name(s3_url):
    for use in USES:
        with pytest.raises(StorageInputError, match="s3://nowhere/x: there is no bucket nowhere"):
            use(open_root("s3://nowhere/x"))
    with pytest.raises(StorageInputError, match="no bucket nowhere"):
        build_manifest(SourceConfig(name="demo", uri="s3://nowhere/list.csv"))


@pytest.fixture
def refusing(s3_url, monkeypatch):
    """A server that answers everything with one status."""

    class Handler(http.server.BaseHTTPRequestHandler):
        status = 403

        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(self.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with served(Handler, monkeypatch):
        yield Handler


@pytest.fixture
def forgetful(s3_endpoint, s3_url, monkeypatch):
    """A proxy that does what it is asked; every first answer to an exclusive write is lost."""
    forgotten = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server = http.client.HTTPConnection(s3_endpoint.removeprefix("http://"), timeout=20)
            server.request(self.command, self.path, body, dict(self.headers))
            answer = server.getresponse()
            data, status = answer.read(), answer.status
            if self.headers.get("If-None-Match") and self.path not in forgotten:
                assert status == 200
                forgotten.append(self.path)
                status = 502
            self.send_response(status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with served(Handler, monkeypatch):
        yield forgotten


@contextlib.contextmanager
def served(handler, monkeypatch):
    """Let a handler answer in the object store's place."""
    for method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
        setattr(handler, f"do_{method}", handler.answer)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def test_what_was_created_although_the_answer_was_lost_counts(forgetful, s3_url):
    root = open_root(s3_url)
    assert root.create("c", b"mine")
    assert not root.create("c", b"another's")
    sample = Sample(FeatureCache.create_or_open(root, SPEC, rows_per_shard=8))
    names = some_keys(8)
    assert sample.fill(names) == [0]
    with hold(root, "work") as lease:
        lease.confirm()
    assert len(forgetful) == 4
    assert sample.cache.verify() == []
    assert FeatureCache.open(root, SPEC.id).missing(names) == []


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (403, DeniedError, "access is denied. Check AWS_ACCESS_KEY_ID"),
        (401, DeniedError, "access is denied. Check AWS_ACCESS_KEY_ID"),
        (301, StorageInputError, "Set AWS_REGION"),
        (400, StorageError, "the object store answered: .*400 Bad Request.* Try again"),
    ],
)
def test_what_the_store_refuses_is_told_in_a_sentence(refusing, s3_url, status, kind, message):
    refusing.status = status
    for use in USES:
        with pytest.raises(kind, match=f"^{s3_url}: .*{message}") as caught:
            use(open_root(s3_url))
        assert "\n" not in str(caught.value)


def test_a_store_that_cannot_be_reached_is_told_by_its_address(s3_url, monkeypatch):
    monkeypatch.setattr("storage.root.s3._RETRY", {"max_retries": 0})
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for use in USES:
        with pytest.raises(StorageError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
            use(open_root(s3_url))
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    with pytest.raises(StorageError, match="AWS_ALLOW_HTTP=true"):
        open_root(s3_url).read("a")


def test_an_upload_that_breaks_off_leaves_nothing_visible(s3_endpoint, s3_url):
    root = open_root(s3_url)
    bucket = s3_url.split("/")[2]
    connection = http.client.HTTPConnection(s3_endpoint.removeprefix("http://"), timeout=5)
    connection.putrequest("PUT", f"/{bucket}/some/prefix/half")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    connection.send(b"x" * 1000)
    connection.close()
    assert root.list() == []


_UPLOADER = """
import sys
from storage.root import open_root
root = open_root(sys.argv[1])
while True:
    root.write("large", bytes(200 * 2**20))
"""


def test_a_process_killed_in_a_large_upload_leaves_nothing_visible(s3_endpoint, s3_url):
    root = open_root(s3_url)
    uploads = f"{s3_endpoint}/{s3_url.split('/')[2]}?uploads"
    uploader = subprocess.Popen([sys.executable, "-c", _UPLOADER, s3_url])

    def is_uploading():
        with urllib.request.urlopen(uploads) as answer:
            return b"<Upload>" in answer.read()

    while not is_uploading():
        assert uploader.poll() is None
        time.sleep(0.005)
    uploader.kill()
    uploader.wait()
    # The server knows of the parts; nobody else does.
    assert is_uploading()
    assert root.list() == []
    assert not root.exists("large")
