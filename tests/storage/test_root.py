"""Contract of every root; runs on a folder here and on S3 in test_s3.py."""

import pickle

import pytest

from storage._local import LocalRoot
from storage.errors import MissingObjectError, StorageInputError
from storage.root import open_root


def check_contract(root):
    assert root.list() == []
    assert root.folders() == []
    root.write("a/b/one", b"1")
    root.write("a/two", b"22")
    root.write("ab", b"333")
    assert root.read("a/b/one") == b"1"
    assert root.read_range("ab", 1, 2) == b"33"
    assert root.read_many(["ab", "nothing"]) == (b"333", None)
    assert root.list() == ["a/b/one", "a/two", "ab"]
    assert root.list("a") == ["a/b/one", "a/two"]
    assert root.sizes("a/two") == {"a/two": 2}
    assert root.facts("ab")["ab"].modified > 1e18
    assert root.size("a") == 3
    assert root.size() == 6
    assert root.folders() == ["a"]
    assert root.folders("a") == ["b"]
    assert root.exists("a")
    assert root.exists("a/two")
    assert not root.exists("a/tw")
    root.write("a/two", b"new")
    assert root.read("a/two") == b"new"
    assert root.create("c", b"first")
    assert not root.create("c", b"second")
    assert root.read("c") == b"first"
    assert pickle.loads(pickle.dumps(root)).read("c") == b"first"
    root.delete("a")
    root.delete("never-there")
    assert root.list() == ["ab", "c"]
    for missing in ("a/two", "zzz"):
        with pytest.raises(MissingObjectError, match=missing):
            root.read(missing)
    with pytest.raises(MissingObjectError):
        root.read_range("zzz", 0, 1)
    with pytest.raises(StorageInputError, match="leaves the root"):
        root.read("../outside")


def test_a_folder_keeps_the_contract(tmp_path):
    root = open_root(tmp_path / "new")
    assert root.path("x") == tmp_path / "new" / "x"
    check_contract(root)


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
