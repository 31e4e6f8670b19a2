"""The latest: a history that only grows, a pointer that always leads to a whole model."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from storage import latest
from storage.errors import CorruptRecordError, LatestChangedError, StorageInputError
from storage.latest import Model, history, newest, promote, rejected, roll_back, settle
from storage.root import Root, open_root

LINE = "small-photos"


def model(root: Root, name: str) -> Model:
    """Publish a model's file and describe it."""
    data = name.encode() * 100
    onnx = f"exports/{name}/student.onnx"
    root.write(onnx, data)
    return Model(
        student=f"student-{name}", mapping="m", evaluation=f"e-{name}", export=name, onnx=onnx,
        sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), input="pixels", output="k",
        metrics={"student/test/pairwise_pearson": 0.9}, night="n", reference={"train": 9},
        settings={},
    )  # fmt: skip


def promoted(root: Root, *names: str) -> None:
    for name in names:
        current = newest(root, LINE)
        promote(root, LINE, model(root, name), "better", current.number if current else None)


def pointed(root: Root) -> str:
    """Follow the pointer as a device does: only JSON and bytes."""
    content = json.loads(root.read(f"latest/{LINE}.json"))
    data = root.read(content["model"]["onnx"])
    assert hashlib.sha256(data).hexdigest() == content["model"]["sha256"]
    return content["model"]["export"]


def test_the_pointer_tells_the_newest_entry_and_nothing_is_deleted(root: Root) -> None:
    assert newest(root, LINE) is None
    promoted(root, "a", "b", "c")
    assert pointed(root) == "c"
    assert [entry.model.export for entry in history(root, LINE)] == ["a", "b", "c"]
    assert [entry.before for entry in history(root, LINE)] == [None, 1, 2]
    assert latest.lines(root) == [LINE]


def test_rolling_back_returns_step_by_step_and_stops_at_the_first(root: Root) -> None:
    with pytest.raises(StorageInputError, match="no latest for small-photos"):
        roll_back(root, LINE)
    promoted(root, "a", "b", "c")
    assert roll_back(root, LINE).model.export == "b"
    assert pointed(root) == "b"
    assert roll_back(root, LINE).model.export == "a"
    with pytest.raises(StorageInputError, match=r"student-a is the first.*nothing before it"):
        roll_back(root, LINE)
    assert pointed(root) == "a"
    assert [entry.number for entry in history(root, LINE)] == [1, 2, 3, 4, 5]
    promoted(root, "d")
    assert roll_back(root, LINE).model.export == "a"


def test_what_was_rolled_back_is_remembered_until_it_is_taken_again(root: Root) -> None:
    promoted(root, "a", "b", "c")
    roll_back(root, LINE, to=1)
    assert set(rejected(history(root, LINE))) == {"student-b", "student-c"}
    forward = roll_back(root, LINE, to=3)
    assert (forward.model.export, forward.before) == ("c", 2)
    assert set(rejected(history(root, LINE))) == {"student-b"}
    assert roll_back(root, LINE).model.export == "b"
    assert set(rejected(history(root, LINE))) == {"student-c"}


@pytest.mark.parametrize("older", [1, 2])
def test_a_return_to_an_older_entry_turns_the_newer_student_away_whatever_lies_between(
    root: Root, older: int
) -> None:
    promoted(root, "a", "b")
    roll_back(root, LINE)
    promoted(root, "c")
    entry = roll_back(root, LINE, to=older)
    assert entry.rejects == ("student-c",)
    assert "student-c" in rejected(history(root, LINE))


def test_a_student_that_was_taken_again_is_turned_away_by_the_next_return(root: Root) -> None:
    promoted(root, "a", "b")
    roll_back(root, LINE)
    assert roll_back(root, LINE, to=2).rejects == ()
    assert roll_back(root, LINE, to=3).rejects == ("student-b",)


def test_an_entry_that_cannot_be_taken_is_refused_and_changes_nothing(root: Root) -> None:
    promoted(root, "a", "b")
    with pytest.raises(StorageInputError, match="no entry 7: it runs from 1 to 2"):
        roll_back(root, LINE, to=7)
    with pytest.raises(StorageInputError, match=r"entry 2 .* in force already"):
        roll_back(root, LINE, to=2)
    root.write("exports/a/student.onnx", b"other")
    with pytest.raises(StorageInputError, match=r"exports/a/student\.onnx is not the file"):
        roll_back(root, LINE)
    root.delete("exports/a")
    with pytest.raises(StorageInputError, match="is missing: the latest stays as it is") as told:
        roll_back(root, LINE)
    assert "Bring the file back, or take another entry with `tintem rollback" in str(told.value)
    assert pointed(root) == "b"
    assert len(history(root, LINE)) == 2


def test_of_two_that_compared_with_the_same_latest_one_is_told(root: Root) -> None:
    promoted(root, "a")
    promote(root, LINE, model(root, "b"), "better", 1)
    with pytest.raises(LatestChangedError, match=r"it was entry 1, now it is entry 2 \(student-b"):
        promote(root, LINE, model(root, "c"), "better", 1)
    with pytest.raises(LatestChangedError, match="there was none"):
        promote(root, LINE, model(root, "c"), "better", None)
    assert pointed(root) == "b"


def test_a_writer_that_lost_the_race_for_the_number_is_told(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(root, "a")
    create = type(root).create

    def overtaken(self: Root, path: str, data: bytes) -> bool:
        monkeypatch.undo()
        promoted(self, "b")
        return create(self, path, data)

    monkeypatch.setattr(type(root), "create", overtaken)
    with pytest.raises(LatestChangedError, match=r"now it is entry 2 \(student-b\)"):
        promote(root, LINE, model(root, "c"), "better", 1)
    assert pointed(root) == "b"


def while_a_model_is_checked(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> None:
    check = latest._require_model

    def slow(root: Root, model: Model) -> None:
        monkeypatch.undo()
        check(root, model)
        call()

    monkeypatch.setattr(latest, "_require_model", slow)


def test_a_return_while_a_model_is_checked_is_not_undone_by_the_promotion(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(root, "a", "b")
    while_a_model_is_checked(monkeypatch, lambda: roll_back(root, LINE))
    with pytest.raises(LatestChangedError, match=r"was entry 2, now it is entry 3 \(student-a\)"):
        promote(root, LINE, model(root, "c"), "better", 2)
    assert pointed(root) == "a"


def test_a_promotion_while_a_model_is_checked_is_not_undone_by_the_return(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(root, "a", "b")
    while_a_model_is_checked(
        monkeypatch, lambda: promote(root, LINE, model(root, "c"), "better", 2)
    )
    with pytest.raises(LatestChangedError, match=r"was entry 2, now it is entry 3 \(student-c\)"):
        roll_back(root, LINE)
    assert pointed(root) == "c"


def test_a_slow_writer_leaves_no_old_pointer(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    promoted(root, "a")
    write = type(root).write
    other = replace(model(root, "b"))

    def slow(self: Root, path: str, data: bytes) -> None:
        monkeypatch.undo()
        promote(self, LINE, model(self, "c"), "better", 2)
        write(self, path, data)

    def write_or_wait(self: Root, path: str, data: bytes) -> None:
        (slow if path == f"latest/{LINE}.json" else write)(self, path, data)

    monkeypatch.setattr(type(root), "write", write_or_wait)
    promote(root, LINE, other, "better", 1)
    assert pointed(root) == "c"


def test_a_damaged_entry_is_named(root: Root) -> None:
    promoted(root, "a")
    path = f"latest/{LINE}/000001.json"
    root.write(path, root.read(path).replace(b"0.9", b"0.8"))
    with pytest.raises(CorruptRecordError, match=r"000001\.json is damaged"):
        newest(root, LINE)


def test_an_empty_entry_of_a_folder_without_links_is_none(root: Root) -> None:
    promoted(root, "a")
    root.write(f"latest/{LINE}/000002.json", b"")
    assert settle(root, LINE) == newest(root, LINE)
    promoted(root, "b")
    assert [(e.number, e.before) for e in history(root, LINE)] == [(1, None), (3, 1)]
    assert roll_back(root, LINE).model.export == "a"


def test_the_latest_works_on_an_object_store(s3_url: str) -> None:
    root = open_root(s3_url)
    promoted(root, "a", "b")
    assert pointed(root) == "b"
    with pytest.raises(LatestChangedError):
        promote(root, LINE, model(root, "c"), "better", 1)
    assert roll_back(root, LINE).model.export == "a"
    assert pointed(root) == "a"
    with pytest.raises(StorageInputError, match="nothing before it"):
        roll_back(root, LINE)


_DRIVER = """
import json, os, signal, sys
from storage.root import open_root
from tests.storage.test_latest import model, pointed, LINE
from storage.latest import history, newest, promote, roll_back, settle

root, action = open_root(sys.argv[1]), sys.argv[2]
calls = ("fsync", "link", "rename", "replace", "unlink", "open")

def child(fatal, before):
    made = 0
    def counted(real):
        def call(*arguments, **named):
            nonlocal made
            made += 1
            if made == fatal:
                if not before:
                    real(*arguments, **named)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)
        return call
    for name in calls:
        setattr(os, name, counted(getattr(os, name)))
    current = newest(root, LINE)
    if action == "promote":
        promote(root, LINE, described, "better", current.number)
    else:
        roll_back(root, LINE)
    os._exit(0)

kills, leftovers = 0, 0
described = model(root, "next")
for before in (True, False):
    for fatal in range(1, 100):
        current = newest(root, LINE)
        pid = os.fork()
        if not pid:
            child(fatal, before)
        status = os.waitpid(pid, 0)[1]
        pointed(root)
        found, now = json.loads(root.read(f"latest/{LINE}.json"))["number"], newest(root, LINE)
        assert found in (current.number, now.number), found
        leftovers += found != now.number
        assert [e.number for e in history(root, LINE)] == list(range(1, now.number + 1))
        assert settle(root, LINE) == now and pointed(root) == now.model.export
        if action == "roll_back" and now.before is None:
            promote(root, LINE, described, "better", now.number)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, status
            assert now.number > current.number
            break
        kills += 1
print(kills, leftovers)
"""


@pytest.mark.parametrize("action", ["promote", "roll_back"])
def test_killed_at_any_call_the_pointer_still_leads_to_a_whole_model(
    root: Root, action: str
) -> None:
    promoted(root, "a", "b")
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, root.url, action],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    kills, leftovers = map(int, done.stdout.split())
    # Kills between the entry and the pointer are among them.
    assert kills >= 10
    assert leftovers >= 4
