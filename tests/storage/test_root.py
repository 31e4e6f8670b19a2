"""Contract of every root; runs on a folder here and on S3 in test_s3.py."""

import os

import pytest

from storage import _local
from storage._local import LocalRoot
from storage.errors import StorageInputError
from storage.root import open_root
from storage.testing import check_root


def test_a_folder_keeps_the_contract(tmp_path):
    root = open_root(tmp_path / "new")
    assert root.path("x") == tmp_path / "new" / "x"
    check_root(root)


def test_an_interrupted_write_leaves_the_old_object_and_nothing_visible(tmp_path, monkeypatch):
    root = LocalRoot(str(tmp_path))
    root.write("thing", b"old")

    def die(_handle):
        raise KeyboardInterrupt

    monkeypatch.setattr("storage._local.os.fsync", die)
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
    with pytest.raises(StorageInputError, match="gs://"):
        open_root("gs://bucket/x")
    with pytest.raises(StorageInputError, match="no bucket"):
        open_root("s3://")


def test_a_folder_without_hard_links_still_lets_the_first_writer_win(tmp_path, monkeypatch):
    def refuse(_source, _target):
        raise PermissionError

    monkeypatch.setattr("storage._local.os.link", refuse)
    check_root(open_root(tmp_path / "new"))


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


def test_files_that_vanish_during_a_listing_are_left_out(tmp_path, monkeypatch):
    root = open_root(tmp_path)
    for name in ("a", "b"):
        root.write(name, b"1")
    files = _local._files

    def slow(folder):
        for entry in files(folder):
            (tmp_path / "b").unlink(missing_ok=True)
            yield entry

    monkeypatch.setattr(_local, "_files", slow)
    assert root.list() in (["a"], [])
