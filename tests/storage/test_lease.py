"""One works, the others wait: in threads, in real processes, on a folder and on S3."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from storage.errors import LeaseLostError
from storage.lease import Holder, Patience, hold
from storage.root import open_root
from tests.storage.hooked import HookedRoot

NAME = "students/vit-tiny-0123abcd"

# Far below the minute that a holder is waited for who may only be silent.
_AT_ONCE = 30

_SILENT = 3.0
# A minute of silence passes in three seconds: a beat may be late on a busy machine.
IMPATIENT = Patience(beat_seconds=0.05, silent_seconds=_SILENT, longest_pause=0.3)

_HOLD = """
import sys
from storage.lease import hold
from storage.root import open_root
from tests.storage.test_lease import IMPATIENT
with hold(open_root(sys.argv[1]), sys.argv[2], patience=IMPATIENT) as held:
    print("holding", flush=True)
    sys.stdin.readline()
    held.confirm()
    print("still holding", flush=True)
"""


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path):
    return (
        str(tmp_path / "root") if request.param == "folder" else request.getfixturevalue("s3_url")
    )


def claim_files(root):
    return [path for path in root.list() if path.endswith(".json")]


def claim_of_this_process(root, **changes):
    """What a claim of this process holds, apart from some changes."""
    with hold(root, "example"):
        (path,) = claim_files(root)
        return json.dumps({**json.loads(root.read(path)), **changes}).encode()


@contextlib.contextmanager
def holder(place):
    """Another process that holds the name."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, place, NAME],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "holding\n", process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_what_was_held_is_free_again_and_nothing_is_left(place):
    root = open_root(place)
    for _ in range(2):
        with hold(root, NAME) as held:
            held.confirm()
            assert len(claim_files(root)) == 1
        assert root.list() == []
    with pytest.raises(ZeroDivisionError), hold(root, NAME):
        raise ZeroDivisionError
    assert root.list() == []


def test_a_name_does_not_keep_another_waiting(place):
    root = open_root(place)
    with hold(root, "students/a"), hold(root, "students/a.b"), hold(root, "students/a-b"):
        assert len(claim_files(root)) == 3
    assert root.list() == []


def test_the_second_waits_for_the_first_and_is_told_for_whom(place):
    root, waited, order = open_root(place), [], []

    def second():
        with hold(root, NAME, waited.append, IMPATIENT):
            order.append("second")

    with hold(root, NAME, patience=IMPATIENT):
        thread = threading.Thread(target=second)
        thread.start()
        # Longer than a silent holder would be waited for: this one beats.
        time.sleep(_SILENT + 1)
        order.append("first")
    thread.join(60)
    assert order == ["first", "second"]
    (told,) = waited
    assert told.pid == os.getpid()
    assert str(told) == f"process {os.getpid()} on {os.uname().nodename} (since {told.since})"
    assert root.list() == []


def test_a_killed_holder_on_this_machine_is_succeeded_at_once(place):
    root = open_root(place)
    with holder(place) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        started = time.monotonic()
        with hold(root, NAME) as held:
            assert time.monotonic() - started < _AT_ONCE
            held.confirm()
            (left,) = claim_files(root)
            assert left.endswith(".000002.json")
    assert root.list() == []


def test_a_killed_holder_that_nobody_reaped_counts_as_dead(tmp_path):
    with holder(str(tmp_path)) as process:
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        started = time.monotonic()
        with hold(open_root(tmp_path), NAME):
            assert time.monotonic() - started < _AT_ONCE


def test_a_process_number_that_is_used_again_does_not_keep_a_dead_holder_alive(tmp_path):
    root = open_root(tmp_path)
    root.create(f"leases/{NAME}.000001.json", claim_of_this_process(root, started=1.0))
    started = time.monotonic()
    with hold(root, NAME):
        assert time.monotonic() - started < _AT_ONCE


def test_a_silent_holder_elsewhere_is_waited_for_as_long_as_its_beat_may_take(place):
    root = open_root(place)
    claim = claim_of_this_process(root, place="another machine", token="abcd")
    root.create(f"leases/{NAME}.000001.json", claim)
    root.write(f"leases/{NAME}.000001.abcd.beat", b"7")
    started, waited = time.monotonic(), []
    with hold(root, NAME, waited.append, IMPATIENT):
        assert time.monotonic() - started > _SILENT
        assert [told.place for told in waited] == ["another machine"]
        assert len(claim_files(root)) == 1
    assert root.list() == []


def test_a_claim_that_cannot_be_read_is_waited_for_like_a_silent_one(tmp_path):
    root = open_root(tmp_path)
    root.create(f"leases/{NAME}.000001.json", b"")
    started = time.monotonic()
    with hold(root, NAME, patience=IMPATIENT):
        assert time.monotonic() - started > _SILENT
    assert root.list() == []


def test_a_holder_that_slept_too_long_is_told_before_it_writes(place):
    root = open_root(place)
    with holder(place) as process:
        process.send_signal(signal.SIGSTOP)
        with hold(root, NAME, patience=IMPATIENT) as held:
            process.send_signal(signal.SIGCONT)
            _, errors = process.communicate("go on\n", timeout=60)
            assert process.returncode == 1
            assert LeaseLostError.__name__ in errors
            assert f"process {os.getpid()} on" in errors
            assert "Run it again" in errors
            # Its end does not touch the lease of the one that took over.
            held.confirm()
        assert claim_files(root) == []


def test_a_waiter_that_slept_does_not_take_over_from_a_holder_that_beats(tmp_path):
    root = open_root(tmp_path)
    with holder(str(tmp_path)) as first, waiting(tmp_path) as second:
        # As on a machine that is suspended: neither sees the other for long.
        for process in (first, second):
            process.send_signal(signal.SIGSTOP)
        time.sleep(_SILENT + 1)
        # One look of the waiter passes before the holder beats again.
        second.send_signal(signal.SIGCONT)
        time.sleep(0.3)
        first.send_signal(signal.SIGCONT)
        time.sleep(1)
        assert [path.split(".")[-2] for path in claim_files(root)] == ["000001"]


@contextlib.contextmanager
def waiting(place):
    """Another process that waits for the name, and has said so."""
    code = _HOLD.replace("patience=", "print, ")
    process = subprocess.Popen(
        [sys.executable, "-uc", code, place, NAME],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline().startswith("process "), process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_one_killed_between_its_claim_and_its_second_look_stands_in_nobodys_way(tmp_path):
    root = open_root(tmp_path)
    dead = claim_of_this_process(root, started=1.0)
    for generation in (1, 2):
        root.create(f"leases/{NAME}.{generation:06d}.json", dead)
    with hold(root, NAME) as held:
        held.confirm()
        assert len(claim_files(root)) == 1


def test_a_claim_made_while_the_last_one_changed_hands_is_withdrawn(tmp_path):
    """The one judged dead had gone, and its place was taken by another that lives."""
    root, first = HookedRoot(str(tmp_path)), f"leases/{NAME}.000001.json"
    living, waited = claim_of_this_process(root), []
    root.create(first, claim_of_this_process(root, started=1.0))

    def end(holder):
        waited.append(holder)
        assert claim_files(root) == [first]
        root.delete(first)

    root.before("create", ".000002.json", lambda: root.write(first, living))
    with hold(root, NAME, end):
        assert [holder.pid for holder in waited] == [os.getpid()]


def _count(place, times, for_ever):
    """Add to a number in a way that loses count if two do it at once."""
    root = open_root(place)
    for _ in range(times):
        with hold(root, NAME):
            number = int(root.read_or_none("number") or b"0")
            time.sleep(0.002)
            root.write("number", str(number + 1).encode())
    if for_ever:
        with hold(root, NAME):
            root.write("asleep", b"")
            time.sleep(600)


def check_that_none_work_at_the_same_time(place, start):
    workers = [start(target=_count, args=(place, 5, i == 0)) for i in range(4)]
    for worker in workers:
        worker.start()
    root = open_root(place)
    deadline = time.monotonic() + 200
    while root.read_or_none("asleep") is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert root.read_or_none("asleep") is not None
    workers[0].kill()
    for worker in workers:
        worker.join(60)
    assert root.read("number") == b"20"
    with hold(root, NAME):
        pass
    assert root.list() == ["asleep", "number"]


@pytest.mark.timeout(600)
def test_processes_never_work_at_the_same_time_and_survive_a_kill(tmp_path):
    check_that_none_work_at_the_same_time(
        str(tmp_path), multiprocessing.get_context("fork").Process
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_processes_on_s3_never_work_at_the_same_time_and_survive_a_kill(s3_url):
    check_that_none_work_at_the_same_time(s3_url, multiprocessing.get_context("spawn").Process)


def test_who_holds_a_lease_lives_on_when_the_clock_is_set(tmp_path, monkeypatch):
    holder = Holder(**json.loads(claim_of_this_process(open_root(tmp_path))))
    started, booted = psutil.Process.create_time, psutil.boot_time
    # psutil gives both as the clock now has them.
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: started(process) + 3600)
    monkeypatch.setattr(psutil, "boot_time", lambda: booted() + 3600)
    assert not holder.is_dead
    assert replace(holder, started=holder.started + 60).is_dead


def test_where_the_machine_tells_no_namespaces_a_place_is_a_host(tmp_path, monkeypatch):
    def refuse(_path):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", refuse)
    holder = Holder(**json.loads(claim_of_this_process(open_root(tmp_path))))
    assert holder.place == os.uname().nodename
    assert not holder.is_dead
    assert replace(holder, started=holder.started - 60).is_dead
