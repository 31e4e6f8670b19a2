"""Contract of every root; runs on a folder here and on S3 in test_s3.py."""

import pytest

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
