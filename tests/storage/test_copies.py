"""Copies of remote shards: within their limit, used again, and never believed unchecked."""

import os

import numpy as np
import pytest

from storage.copies import CopyFolder
from storage.testing import SPEC, some_keys


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


def test_a_reader_lets_go_of_copies_that_another_reader_has_dropped(remote, tmp_path):
    """The disk holds a dropped copy for as long as it is mapped."""
    names = some_keys(64)
    remote.fill(names)
    copies = CopyFolder(tmp_path / "copies", limit_bytes=1_500)
    one, other = (remote.cache.reader(names, kind, copies=copies) for kind in SPEC.kinds)
    zero = np.zeros(8, int)
    one.take(zero, np.arange(8))
    other.take(zero, np.arange(56, 64))
    other.take(zero, np.arange(48, 56))
    assert one._values._ready.tolist() == [True, *[False] * 7]
    wanted = remote.stacked(names[16:24], "global")[0]
    np.testing.assert_array_equal(one.take(zero, np.arange(16, 24)), wanted)
    assert one._values._ready.tolist() == [False, False, True, *[False] * 5]


def test_a_lower_limit_counts_at_once(remote, tmp_path):
    names = some_keys(64)
    remote.fill(names)
    remote.cache.reader(names, copies=CopyFolder(tmp_path / "copies")).load_all()
    assert CopyFolder(tmp_path / "copies").size() > 2_000
    assert 0 < CopyFolder(tmp_path / "copies", limit_bytes=2_000).size() <= 2_000


def test_what_a_killed_process_left_among_the_copies_is_removed(tmp_path):
    old, new = (tmp_path / f".{name}.shard.0123" for name in ("old", "new"))
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    CopyFolder(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


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


@pytest.mark.parametrize("moment", ["has", "utime"])
def test_a_copy_that_another_process_drops_is_read_from_the_store(
    remote, tmp_path, monkeypatch, moment
):
    names = some_keys(16)
    remote.fill(names)
    copies = CopyFolder(tmp_path / "copies")
    remote.cache.reader(names, copies=copies).load_all()
    has, utime = CopyFolder.has, os.utime

    def drop_after(self, name, size):
        found = has(self, name, size)
        self.path(name).unlink(missing_ok=True)
        return found

    def drop_before(path):
        path.unlink()
        utime(path)

    if moment == "has":
        monkeypatch.setattr(CopyFolder, "has", drop_after)
    else:
        monkeypatch.setattr("storage.copies.os.utime", drop_before)
    reader = remote.cache.reader(names, copies=copies)
    np.testing.assert_array_equal(reader.all(0), remote.stacked(names, "global")[0])
