"""What a child process reports, as lines of JSON, comes to the reporter of its parent.

The parent keeps the child's standard input open: when that closes, even by a SIGKILL of the
parent, the child ends.
"""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import IO, Any

from flows.failures import describe, may_pass
from flows.reporting.base import Advance, Reporter, reporter
from storage.errors import StorageInputError, UnreachableError
from tintem_core.errors import InputError, TintemError

_KINDS = {"input": InputError, "passes": UnreachableError, "other": TintemError}
_SECONDS_BETWEEN_REPORTS = 0.5
_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class ChildResult:
    """What a child answered, and how it ended."""

    answer: dict[str, Any]
    code: int
    stderr: "StderrTail"

    @property
    def ending(self) -> str:
        """How it ended, and what it said last."""
        return self.stderr.describe_end(self.code)


def run_child(
    command: Sequence[str], environment: Mapping[str, str], orders: bytes = b""
) -> ChildResult:
    """Run a child process that ends with this one; what it reports and prints is reported here.

    Args:
        command: program and arguments.
        environment: what its environment has besides this process's.
        orders: what it reads from its standard input, which stays open after that.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A terminal's Ctrl-C is for this process, which ends the child.
        env={**os.environ, **environment}, start_new_session=True,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    stderr = StderrTail(process.stderr, reporter().note)
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(orders)
            process.stdin.flush()
        answer = relay(process.stdout, reporter())
        process.wait()
    finally:
        # Its own children have sessions of their own, and end when this closes.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.terminate()
        process.wait()
        stderr.wait()
        process.stdout.close()
        process.stderr.close()
    return ChildResult(answer, process.returncode, stderr)


class PipeReporter:
    """The child's side: reports as lines of JSON."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._numbers = itertools.count()
        self._turn = threading.Lock()

    @classmethod
    def of_standard_output(cls) -> "PipeReporter":
        """Take the standard output for reports; what libraries print goes to the standard error."""
        reports = cls(os.fdopen(os.dup(1), "w"))
        os.dup2(2, 1)
        return reports

    def say(self, **event: Any) -> None:
        """Send an answer, or another event."""
        with self._turn:
            print(json.dumps(event), file=self._stream, flush=True)

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        work = next(self._numbers)
        self.say(work=work, title=title, total=total, unit=unit)
        waiting, said_at = 0, time.monotonic()

        said = ""

        def advance(done: int, /, says: str = "") -> None:
            nonlocal waiting, said, said_at
            waiting += done
            said = says or said
            if time.monotonic() - said_at > _SECONDS_BETWEEN_REPORTS:
                self.say(work=work, done=waiting, says=said)
                waiting, said_at = 0, time.monotonic()

        yield advance
        self.say(work=work, done=waiting, says=said)
        self.say(ended=work)

    def note(self, text: str) -> None:
        self.say(note=text)


def relay(stream: IO[bytes], target: Reporter) -> dict[str, Any]:
    """Report what a child reports, until it answers; an empty answer means that it ended before."""
    tracked: dict[int, tuple[contextlib.ExitStack, Advance]] = {}
    try:
        for line in stream:
            event = json.loads(line)
            if "note" in event:
                target.note(event["note"])
            elif "title" in event:
                stack = contextlib.ExitStack()
                following = target.track(event["title"], event["total"], event["unit"])
                tracked[event["work"]] = (stack, stack.enter_context(following))
            elif "done" in event:
                tracked[event["work"]][1](event["done"], event.get("says", ""))
            elif "ended" in event:
                tracked.pop(event["ended"])[0].close()
            else:
                return dict(event)
    finally:
        # What is still tracked was not finished, and must not be shown as if it were.
        for stack, _ in tracked.values():
            with contextlib.suppress(_EndedEarlyError):
                stack.__exit__(_EndedEarlyError, _EndedEarlyError(), None)
    return {}


def from_error(error: Exception) -> dict[str, str]:
    """Return an error as a child answers with it: what to say, and as what to raise it again."""
    kind = "passes" if may_pass(error) else "other"
    if isinstance(error, InputError | StorageInputError):
        kind = "input"
    return {"failed": describe(error), "kind": kind}


def to_error(answer: dict[str, Any]) -> Exception:
    """Return the error that a child answered with."""
    return _KINDS[answer["kind"]](answer["failed"])


class _EndedEarlyError(Exception):
    """A child ended in the midst of something."""


class StderrTail:
    """Listens to what a child prints, and keeps the end of it."""

    def __init__(self, stream: IO[bytes], heard: Callable[[str], None] = lambda _: None) -> None:
        """Begin to listen.

        Args:
            stream: the child's standard error.
            heard: called with every line, in another thread.
        """
        self.lines: deque[str] = deque(maxlen=40)
        self._heard = heard
        # Prefect finds out from the context which run a line belongs to.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._listen, stream), daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Block until the child has closed the stream."""
        self._thread.join()

    def describe_end(self, code: int) -> str:
        """Say how the child ended, and what it said last."""
        # Frames of = and - say nothing.
        words = [line for line in self.lines if any(letter.isalnum() for letter in line)]
        said = f"; it said last: {words[-1].strip()}" if words else ""
        return f"{describe_code(code)}{said}"

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            if text:
                self.lines.append(text)
                self._heard(text)


def describe_code(code: int) -> str:
    """Say what an exit code means."""
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (
        " (the system does that when memory runs out)" if name == "SIGKILL" else ""
    )


def leave_with_parent(orders: IO[bytes]) -> None:
    """End this process, in the midst of anything, once its standard input closes."""

    def watch() -> None:
        orders.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def leave_with_launcher() -> None:
    """End this process, in the midst of anything, once the one that started it has ended."""
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
