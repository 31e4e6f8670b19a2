"""A student in a process of its own: what it reports, how its end is told, and where it runs."""

import contextlib
import errno
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import parse_config
from flows.execution.child import StderrTail, describe_code, from_error, relay, to_error
from flows.execution.slots import Slots, slots_of
from flows.execution.students import finish_in_process
from flows.failures import may_pass
from flows.reporting.base import Advance, Prefixed, reporting_to
from storage.errors import StorageInputError, UnreachableError
from tests.runs import Notes
from tintem_core.errors import InputError, TintemError

TRAINING = {"work": 0, "title": "Train", "total": 5, "unit": "steps"}


class Watching(Notes):
    """Remembers what came to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[str] = []

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        with super().track(title, total, unit) as advance:
            yield advance
        self.finished.append(title)


def relayed(*events: dict[str, Any]) -> tuple[dict[str, Any], Watching]:
    target = Watching()
    lines = io.BytesIO(b"".join(json.dumps(event).encode() + b"\n" for event in events))
    return relay(lines, target), target


def test_what_a_process_reports_arrives_in_the_parents_report() -> None:
    answer, heard = relayed(
        {"note": "begun"},
        TRAINING,
        {"work": 0, "done": 3, "says": ""},
        {"work": 0, "done": 2, "says": "loss 0.5"},
        {"ended": 0},
        {"ids": {"student": "a"}},
    )
    assert answer == {"ids": {"student": "a"}}
    assert heard.said == {"Train": ["loss 0.5"]}
    assert heard.notes == ["begun"]
    assert heard.work == {"Train": 5}
    assert heard.finished == ["Train"]


def test_work_that_a_dead_process_left_is_not_reported_as_finished() -> None:
    answer, heard = relayed(TRAINING, {"work": 0, "done": 3})
    assert answer == {}
    assert heard.work == {"Train": 3}
    assert heard.finished == []


@pytest.mark.parametrize(
    ("code", "said"),
    [(-9, "was killed by SIGKILL.*memory runs out"), (-11, "was killed by SIGSEGV"), (3, "code 3")],
)
def test_how_a_process_ended_is_told(code: int, said: str) -> None:
    assert re.search(said, describe_code(code))


def test_students_at_once_share_the_cores_and_take_gpus_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    three = Slots(3, ["0", "5"])
    with three.one() as first, three.one() as second, three.one() as third:
        taken = [first, second, third]
    assert [place["CUDA_VISIBLE_DEVICES"] for place in taken] == ["0", "5", "0"]
    assert {place["OMP_NUM_THREADS"] for place in taken} == {"2"}
    # A place that was given back is taken again.
    with three.one() as again:
        assert again == first
    with Slots(2, []).one() as place:
        assert "CUDA_VISIBLE_DEVICES" not in place


@pytest.mark.parametrize(
    ("gpus", "at_once", "device", "wanted"),
    [
        (0, None, "auto", None),
        (1, None, "auto", None),
        (4, None, "auto", 4),
        (4, None, "cuda:2", None),
        (4, None, "cpu", None),
        (4, 2, "auto", 2),
        (0, 3, "cpu", 3),
    ],
)
def test_by_default_there_is_a_process_per_gpu(
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    gpus: int,
    at_once: int | None,
    device: str,
    wanted: int | None,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    settings["runtime"]["device"] = device
    settings["sweep"] = {"seeds": [0], "at_once": at_once}
    found = slots_of(parse_config(settings, "test"))
    assert (None if found is None else found.count) == wanted


def test_students_that_take_several_gpus_each_take_turns(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    settings["runtime"] = {"device": "auto", "processes": 4}
    settings["sweep"] = {"seeds": [0, 1]}
    assert slots_of(parse_config(settings, "test")) is None
    settings["sweep"]["at_once"] = 2
    with pytest.raises(InputError, match=r"runtime.processes \(4\) .* sweep.at_once \(2\)"):
        parse_config(settings, "test")


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (InputError("a mistake"), InputError, "a mistake"),
        (StorageInputError("a mistake"), InputError, "a mistake"),
        (UnreachableError("a store"), UnreachableError, "a store"),
        (OSError(errno.ESTALE, "a folder"), UnreachableError, "OSError: .* a folder"),
        (TintemError("lost"), TintemError, "lost"),
        (ValueError("a bug"), TintemError, "ValueError: a bug"),
    ],
)
def test_what_a_process_meets_is_raised_again_as_what_it_is(
    error: Exception, kind: type[Exception], said: str
) -> None:
    again = to_error(json.loads(json.dumps(from_error(error))))
    assert type(again) is kind
    assert re.fullmatch(said, str(again))
    assert may_pass(again) is may_pass(error)


def test_the_last_words_are_words() -> None:
    said = StderrTail(io.BytesIO(b"ValueError: a bug\n  ------\n=====\n\n"))
    said.wait()
    assert said.describe_end(1) == "ended with code 1; it said last: ValueError: a bug"


def test_what_a_process_prints_is_in_the_log_of_the_run(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = tmp_path / "python"
    student.write_text("""#!/bin/sh
        read -r orders
        echo 'UserWarning: rather slow' >&2
        echo '{"note": "begun"}'
        echo '{"ids": {"student": "a"}}'
    """)
    student.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(student))
    notes = Notes()
    with reporting_to(Prefixed("narrow", notes)):
        ids = finish_in_process("json:loads", parse_config(settings, "test"), {}, {})
    assert ids == {"student": "a"}
    assert set(notes.notes) == {"narrow: begun", "narrow: UserWarning: rather slow"}


def test_only_the_gpus_that_the_user_left_visible_are_dealt_out(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    settings["runtime"]["device"] = "auto"
    found = slots_of(parse_config({**settings, "sweep": {"seeds": [0]}}, "test"))
    assert found is not None
    with found.one() as first, found.one() as second:
        assert [p["CUDA_VISIBLE_DEVICES"] for p in (first, second)] == ["6", "7"]
