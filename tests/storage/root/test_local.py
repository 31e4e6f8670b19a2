"""A root in a folder."""

import errno
import os
from pathlib import Path

import pytest

from storage.errors import DeniedError, StorageInputError
from storage.root import open_root
from storage.testing import RootTests


class TestFolder(RootTests):
    @pytest.fixture
    def root(self, tmp_path):
        return open_root(tmp_path / "new")


class TestFolderWithoutHardLinks(RootTests):
    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        def refuse(_source, _target):
            raise PermissionError

        monkeypatch.setattr(os, "link", refuse)
        return open_root(tmp_path / "new")


def test_a_folder_says_where_its_files_lie(tmp_path):
    assert open_root(tmp_path / "new").path("x") == tmp_path / "new" / "x"


def test_an_interrupted_write_leaves_the_old_object_and_nothing_visible(tmp_path, monkeypatch):
    root = open_root(tmp_path)
    root.write("thing", b"old")

    def die(_handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    for write in (root.write, root.create):
        with pytest.raises(KeyboardInterrupt):
            write("thing", b"new and longer")
    assert root.list() == ["thing"]
    assert root.read("thing") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_leftovers_of_a_killed_writer_are_invisible_and_can_be_removed(tmp_path):
    root = open_root(tmp_path)
    (tmp_path / ".thing.0123.part").write_bytes(b"half")
    assert root.list() == []
    assert not root.exists("")
    root.delete_unfinished("")
    assert list(tmp_path.iterdir()) == []


def test_unusable_places_are_refused_with_the_cure(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageInputError, match="is a file"):
        open_root(tmp_path / "file")
    with pytest.raises(StorageInputError, match=r"file is a file, so .*/file/x/y cannot be"):
        open_root(tmp_path / "file/x/y")
    with pytest.raises(StorageInputError, match="gs://"):
        open_root("gs://bucket/x")
    with pytest.raises(StorageInputError, match="no bucket"):
        open_root("s3://")


@pytest.mark.parametrize(
    ("number", "kind", "cure"),
    [
        (errno.EACCES, DeniedError, "Give yourself the rights"),
        (errno.EROFS, DeniedError, "Give yourself the rights"),
        (errno.ENOSPC, StorageInputError, "Free some space"),
        (errno.EIO, StorageInputError, "Use another folder"),
    ],
)
def test_a_place_that_takes_no_files_is_told_with_the_cure(
    tmp_path, monkeypatch, number, kind, cure
):
    def refuse(_handle):
        raise OSError(number, os.strerror(number))

    root = open_root(tmp_path)
    monkeypatch.setattr(os, "fsync", refuse)
    for write in (root.write, root.create):
        with pytest.raises(kind, match=f"{tmp_path}/a/thing cannot be written .*{cure}"):
            write("a/thing", b"new")
    assert root.list() == []


def test_things_in_the_way_of_a_write_are_told(tmp_path):
    root = open_root(tmp_path)
    root.write("file", b"1")
    root.write("folder/file", b"1")
    for path in ("file/below", "folder"):
        with pytest.raises(StorageInputError, match="Move what is in the way"):
            root.write(path, b"2")
    assert root.list() == ["file", "folder/file"]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_may_not_be_read_is_told(tmp_path, monkeypatch):
    root = open_root(tmp_path)
    root.write("a/b", b"1")

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DeniedError, match="cannot be read"):
        root.list()
    monkeypatch.setattr(Path, "open", refuse)
    for read in (root.read, lambda path: root.read_range(path, 0, 1)):
        with pytest.raises(DeniedError, match=f"{tmp_path}/a/b cannot be read"):
            read("a/b")


def test_a_link_that_was_made_although_the_folder_refused_it_is_ours(tmp_path, monkeypatch):
    link = os.link

    def ask_twice(source, target):
        link(source, target)
        link(source, target)

    # A network folder's answer was lost, and its client asks again.
    monkeypatch.setattr(os, "link", ask_twice)
    root = open_root(tmp_path)
    assert root.create("thing", b"mine")
    assert not root.create("thing", b"another's")
    assert root.read("thing") == b"mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_links_into_nothing_and_into_circles_are_left_out_of_a_listing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/photo").write_bytes(b"1")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe")
    root = open_root(tmp_path)
    assert root.list() == ["a/photo", "again/photo"]
    assert root.folders() == ["a", "again"]


def test_names_that_are_not_utf8_are_spelled_out_and_hold_nothing(tmp_path):
    (tmp_path / "ünï").write_bytes(b"1")
    (tmp_path / os.fsdecode(b"\xe9.png")).write_bytes(b"2")
    root = open_root(tmp_path)
    assert root.list() == [r"\xe9.png", "ünï"]
    assert root.read_or_none(r"\xe9.png") is None


def test_files_that_vanish_during_a_listing_are_left_out(tmp_path):
    root = open_root(tmp_path)
    for name in ("a", "b"):
        root.write(name, b"1")
    listing = root.walk()
    first, _ = next(listing)
    for name in ("a", "b"):
        root.delete(name)
    assert first in ("a", "b")
    assert list(listing) == []


@pytest.mark.parametrize("action", ["write", "create"])
def test_what_appears_was_flushed_to_disk_and_then_its_folder(tmp_path, monkeypatch, action):
    """After a power cut an object is there with all its bytes, or is not there."""
    root, flush, seen = open_root(tmp_path), os.fsync, []

    def note(handle):
        place = Path(f"/proc/self/fd/{handle}").readlink()
        seen.append((place, (tmp_path / "thing").exists()))
        flush(handle)

    monkeypatch.setattr(os, "fsync", note)
    getattr(root, action)("thing", b"1")
    (file, was_there_before), (folder, is_there_then) = seen
    assert (file.parent, was_there_before) == (tmp_path, False)
    assert (folder, is_there_then) == (tmp_path, True)
