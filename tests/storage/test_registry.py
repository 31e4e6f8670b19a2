"""The latest: a history that only grows, a pointer that always leads to a whole model."""

import hashlib
import json
import subprocess
import sys
from datetime import datetime, tzinfo
from typing import Any

import pytest

from storage.errors import CorruptRecordError, LatestChangedError, StorageInputError
from storage.registry import (
    current_version,
    history,
    problems,
    promote,
    rejected,
    roll_back,
    sync_pointer,
)
from storage.root import Root, open_root
from storage.versions import Model, model_names
from tests.storage.hooked import HookedRoot

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
        current = current_version(root, LINE)
        promote(root, LINE, model(root, name), "better", current.number if current else None)


def pointed(root: Root) -> str:
    """Follow the pointer as a device does: only JSON and bytes."""
    content = json.loads(root.read(f"latest/{LINE}.json"))
    data = root.read(content["model"]["onnx"])
    assert hashlib.sha256(data).hexdigest() == content["model"]["sha256"]
    return content["model"]["export"]


def test_the_pointer_tells_the_newest_entry_and_nothing_is_deleted(root: Root) -> None:
    assert current_version(root, LINE) is None
    promoted(root, "a", "b", "c")
    assert pointed(root) == "c"
    assert [entry.model.export for entry in history(root, LINE)] == ["a", "b", "c"]
    assert [entry.before for entry in history(root, LINE)] == [None, 1, 2]
    assert model_names(root) == [LINE]


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
    assert entry.rejected == ("student-c",)
    assert "student-c" in rejected(history(root, LINE))


def test_a_student_that_was_taken_again_is_turned_away_by_the_next_return(root: Root) -> None:
    promoted(root, "a", "b")
    roll_back(root, LINE)
    assert roll_back(root, LINE, to=2).rejected == ()
    assert roll_back(root, LINE, to=3).rejected == ("student-b",)


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
    root: HookedRoot,
) -> None:
    promoted(root, "a")
    root.before("create", f"latest/{LINE}", lambda: promoted(root, "b"))
    with pytest.raises(LatestChangedError, match=r"now it is entry 2 \(student-b\)"):
        promote(root, LINE, model(root, "c"), "better", 1)
    assert pointed(root) == "b"


def test_a_return_while_a_model_is_checked_is_not_undone_by_the_promotion(
    root: HookedRoot,
) -> None:
    promoted(root, "a", "b")
    root.before("read", "exports/c", lambda: roll_back(root, LINE))
    with pytest.raises(LatestChangedError, match=r"was entry 2, now it is entry 3 \(student-a\)"):
        promote(root, LINE, model(root, "c"), "better", 2)
    assert pointed(root) == "a"


def test_a_promotion_while_a_model_is_checked_is_not_undone_by_the_return(
    root: HookedRoot,
) -> None:
    promoted(root, "a", "b")
    new = model(root, "c")
    root.before("read", "exports/a", lambda: promote(root, LINE, new, "better", 2))
    with pytest.raises(LatestChangedError, match=r"was entry 2, now it is entry 3 \(student-c\)"):
        roll_back(root, LINE)
    assert pointed(root) == "c"


def test_of_two_equal_promotions_in_one_second_one_is_refused(
    root: HookedRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noon(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return cls(2026, 1, 1, 12, tzinfo=tz)

    monkeypatch.setattr("storage.registry.datetime", Noon)
    same, other = model(root, "a"), open_root(root.url)
    # Both see that nothing was promoted yet.
    root.before("create", f"latest/{LINE}", lambda: promote(other, LINE, same, "better", None))
    with pytest.raises(LatestChangedError, match="there was none, now it is entry 1"):
        promote(root, LINE, same, "better", None)
    assert len(history(root, LINE)) == 1


def test_a_slow_writer_leaves_no_old_pointer(root: HookedRoot) -> None:
    promoted(root, "a")
    b, c = model(root, "b"), model(root, "c")
    root.before("write", f"latest/{LINE}.json", lambda: promote(root, LINE, c, "better", 2))
    promote(root, LINE, b, "better", 1)
    assert pointed(root) == "c"


def test_a_damaged_entry_is_named(root: Root) -> None:
    promoted(root, "a")
    path = f"latest/{LINE}/000001.json"
    root.write(path, root.read(path).replace(b"0.9", b"0.8"))
    with pytest.raises(CorruptRecordError, match=r"000001\.json is damaged"):
        current_version(root, LINE)


def test_an_entry_that_is_missing_is_named_whichever_it_is(root: Root) -> None:
    promoted(root, "a", "b", "c")
    for number in (1, 2, 3):
        path = f"latest/{LINE}/{number:06d}.json"
        data = root.read(path)
        root.delete(path)
        with pytest.raises(CorruptRecordError, match=rf"{number:06d}\.json is missing"):
            current_version(root, LINE)
        assert f"{number:06d}.json is missing" in problems(root)[f"latest/{LINE}"]
        root.write(path, data)
    assert problems(root) == {}
    root.write(f"latest/{LINE}/000003.json", b"")
    with pytest.raises(CorruptRecordError, match=r"000003\.json is missing"):
        current_version(root, LINE)


def test_an_entry_in_the_place_of_another_is_named(root: Root) -> None:
    promoted(root, "a", "b")
    root.write(f"latest/{LINE}/000002.json", root.read(f"latest/{LINE}/000001.json"))
    with pytest.raises(CorruptRecordError, match=r"000002\.json holds another record"):
        history(root, LINE)


@pytest.mark.parametrize("content", [None, b"{", "older"])
def test_a_damaged_pointer_is_named_and_written_again(root: Root, content: Any) -> None:
    promoted(root, "a")
    older = root.read(f"latest/{LINE}.json")
    promoted(root, "b")
    root.delete(f"latest/{LINE}.json")
    if content is not None:
        root.write(f"latest/{LINE}.json", older if content == "older" else content)
    assert "is not the newest version, 2" in problems(root)[f"latest/{LINE}.json"]
    assert current_version(root, LINE) == sync_pointer(root, LINE)
    assert problems(root) == {}
    assert pointed(root) == "b"


def test_a_model_in_force_that_is_another_file_is_named(root: Root) -> None:
    promoted(root, "a")
    (version,) = history(root, LINE)
    root.write(version.model.onnx, b"another")
    assert "is not the file that was recorded" in problems(root)[version.model.onnx]


def test_files_of_strangers_are_no_versions(root: Root) -> None:
    promoted(root, "a")
    for name in (f"{LINE}/.DS_Store", f"{LINE}/._000002.json", f"{LINE}/copy.json", ".DS_Store"):
        root.write(f"latest/{name}", b"not ours")
    assert model_names(root) == [LINE]
    assert [version.number for version in history(root, LINE)] == [1]
    assert problems(root) == {}


def test_an_empty_entry_of_a_folder_without_links_is_none(root: Root) -> None:
    promoted(root, "a")
    root.write(f"latest/{LINE}/000002.json", b"")
    assert sync_pointer(root, LINE) == current_version(root, LINE)
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
from tests.storage.test_registry import model, pointed, LINE
from storage.registry import history, current_version, promote, roll_back, sync_pointer

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
    current = current_version(root, LINE)
    if action == "promote":
        promote(root, LINE, described, "better", current.number)
    else:
        roll_back(root, LINE)
    os._exit(0)

kills, leftovers = 0, 0
described = model(root, "next")
for before in (True, False):
    for fatal in range(1, 100):
        current = current_version(root, LINE)
        pid = os.fork()
        if not pid:
            child(fatal, before)
        status = os.waitpid(pid, 0)[1]
        pointed(root)
        found = json.loads(root.read(f"latest/{LINE}.json"))["number"]
        now = current_version(root, LINE)
        assert found in (current.number, now.number), found
        leftovers += found != now.number
        assert [e.number for e in history(root, LINE)] == list(range(1, now.number + 1))
        assert sync_pointer(root, LINE) == now and pointed(root) == now.model.export
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
