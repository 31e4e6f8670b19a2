import json

import pytest

from storage.artifacts import (
    broken_artifacts,
    list_artifacts,
    problems,
    read_file,
    read_record,
    read_records,
    write_artifact,
    write_beside,
)
from storage.errors import CorruptRecordError, MissingObjectError, StorageInputError
from storage.root import open_root
from storage.testing import damaged


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


def test_one_flipped_bit_in_a_record_is_noticed_wherever_it_is(root):
    write_artifact(root, "students", "s", {"w": b"1"}, {"metrics": {"loss": 0.25}, "steps": {3: 4}})
    path = "students/s/record.json"
    data = root.read(path)
    for place in range(0, len(data), 9):
        root.write(path, damaged(data, place, bit=place % 7))
        with pytest.raises(CorruptRecordError):
            read_record(root, "students", "s")
        with pytest.raises(CorruptRecordError):
            read_records(root, "students")
        assert list_artifacts(root, "students") == []
        assert path in broken_artifacts(root, "students")["s"]
        assert problems(root, "students", "s").keys() == {"record.json"}
    root.write(path, data)
    assert problems(root, "students", "s") == broken_artifacts(root, "students") == {}


def test_the_record_of_another_artifact_is_noticed(root):
    for name in ("a", "b"):
        write_artifact(root, "students", name, {"w": b"1"}, {})
    root.write("students/a/record.json", root.read("students/b/record.json"))
    with pytest.raises(CorruptRecordError, match=r"is the record of students/b\. Delete it"):
        read_record(root, "students", "a")
    assert [thing.id for thing in list_artifacts(root, "students")] == ["b"]


def test_a_record_of_a_release_without_checks_is_read(root):
    write_artifact(root, "students", "s", {"w": b"1", "page": b"2"}, {"steps": 3})
    record = read_record(root, "students", "s")
    root.write("students/s/record.json", json.dumps(record, indent=2).encode())
    assert read_record(root, "students", "s") == record
    write_beside(root, "students", "s", "page", b"another")
    assert b'"check"' in root.read("students/s/record.json")
    assert read_record(root, "students", "s")["files"].keys() == {"w"}


def test_every_damaged_file_of_an_artifact_is_named(root):
    files = {"gone": b"1", "short": b"12", "flipped": b"123", "whole": b"4"}
    write_artifact(root, "nights", "n", files, {})
    root.delete("nights/n/gone")
    root.write("nights/n/short", b"1")
    root.write("nights/n/flipped", b"122")
    assert problems(root, "nights", "n") == {
        "gone": "it is missing",
        "short": "it has 1 bytes instead of 2",
        "flipped": "its digest differs",
    }
    assert "gone, short is missing, or not of the size" in broken_artifacts(root, "nights")["n"]
    assert problems(root, "nights", "other") == {"record.json": "it is missing"}


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
