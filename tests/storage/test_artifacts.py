import pytest

from storage.artifacts import list_artifacts, read_file, read_record, write_artifact
from storage.errors import CorruptRecordError, MissingObjectError, StorageInputError
from storage.root import open_root


def test_an_artifact_counts_only_once_its_record_is_written(root, monkeypatch):
    written = []
    write = type(root).write

    def note(self, path, data):
        written.append(path)
        write(self, path, data)

    monkeypatch.setattr(type(root), "write", note)
    write_artifact(root, "mappings", "m-1", {"b.bin": b"b", "a.bin": b"a"}, {"spec": {"k": 1}})
    assert written[-1] == "mappings/m-1/record.json"
    record = read_record(root, "mappings", "m-1")
    assert record["spec"] == {"k": 1}
    assert record["files"]["a.bin"]["bytes"] == 1
    assert read_file(root, "mappings", "m-1", "a.bin") == b"a"


def test_an_interrupted_rewrite_is_not_complete(root, monkeypatch):
    write_artifact(root, "students", "s", {"w": b"1"}, {})

    def die(_self, _path, _data):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(root), "write", die)
        with pytest.raises(KeyboardInterrupt):
            write_artifact(root, "students", "s", {"w": b"2"}, {})
    assert read_record(root, "students", "s") is None
    assert list_artifacts(root, "students") == []
    with pytest.raises(MissingObjectError, match="Run the stage again"):
        read_file(root, "students", "s", "w")


@pytest.mark.parametrize("loss", ["gone", "cut short"])
def test_an_artifact_that_lost_a_file_is_none_until_it_is_made_again(root, loss):
    files = {"w": b"12", "page": b"3"}
    write_artifact(root, "students", "s", files, {})
    if loss == "gone":
        root.delete("students/s/w")
    else:
        root.write("students/s/w", b"1")
    assert read_record(root, "students", "s") is None
    with pytest.raises(MissingObjectError, match=r"no complete students/s\. Run the stage again"):
        read_file(root, "students", "s", "page")
    write_artifact(root, "students", "s", files, {})
    assert read_record(root, "students", "s")["files"].keys() == {"page", "w"}


def test_an_artifact_on_an_object_store_that_lost_a_file_is_none(s3_url):
    root = open_root(s3_url)
    write_artifact(root, "students", "s", {"w": b"12"}, {})
    assert read_file(root, "students", "s", "w") == b"12"
    root.delete("students/s/w")
    assert read_record(root, "students", "s") is None


def test_damage_is_noticed(root):
    write_artifact(root, "students", "s", {"w": b"1"}, {})
    root.write("students/s/w", b"2")
    with pytest.raises(CorruptRecordError, match="students/s/w differs"):
        read_file(root, "students", "s", "w")
    root.write("students/s/record.json", b"{")
    with pytest.raises(CorruptRecordError, match="not readable JSON"):
        read_record(root, "students", "s")


def test_reserved_names_and_unknown_kinds_are_refused(root):
    with pytest.raises(StorageInputError, match="may not set id"):
        write_artifact(root, "students", "s", {}, {"id": "x"})
    with pytest.raises(StorageInputError, match="no kind of thing"):
        list_artifacts(root, "models")


def test_the_catalogue_lists_complete_things_oldest_first(root):
    write_artifact(root, "exports", "b", {}, {"created": "2026-01-02T00:00:00+00:00"})
    write_artifact(root, "exports", "a", {}, {"created": "2026-01-03T00:00:00+00:00"})
    root.write("exports/half/file", b"")
    assert [(thing.id, thing.kind) for thing in list_artifacts(root, "exports")] == [
        ("b", "exports"),
        ("a", "exports"),
    ]
