"""What a child process reports, as lines of JSON, comes to the reporter of its parent.

The parent keeps the child's standard input open: when that closes, even by a SIGKILL of the
parent, the child ends.
"""

import contextlib
import itertools
import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import IO, Any

from flows.failures import may_pass, told
from flows.reporting.base import Advance, Reporter
from storage.errors import StorageInputError, UnreachableError
from tintem_core.errors import InputError, TintemError

_KINDS = {"input": InputError, "passes": UnreachableError, "other": TintemError}
_SECONDS_BETWEEN_REPORTS = 0.5


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

        def advance(more: int) -> None:
            nonlocal waiting, said_at
            waiting += more
            if time.monotonic() - said_at > _SECONDS_BETWEEN_REPORTS:
                self.say(work=work, done=waiting)
                waiting, said_at = 0, time.monotonic()

        yield advance
        self.say(work=work, done=waiting)
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
                tracked[event["work"]][1](event["done"])
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


def failure(error: Exception) -> dict[str, str]:
    """Return an error as a child answers with it: what to say, and as what to raise it again."""
    kind = "passes" if may_pass(error) else "other"
    if isinstance(error, InputError | StorageInputError):
        kind = "input"
    return {"failed": told(error), "kind": kind}


def raised_again(answer: dict[str, Any]) -> Exception:
    """Return the error that a child answered with."""
    return _KINDS[answer["kind"]](answer["failed"])


class _EndedEarlyError(Exception):
    """A child ended in the midst of something."""


class LastWords:
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

    def told(self, code: int) -> str:
        """Say how the child ended, and what it said last."""
        # Frames of = and - say nothing.
        words = [line for line in self.lines if any(letter.isalnum() for letter in line)]
        said = f"; it said last: {words[-1].strip()}" if words else ""
        return f"{ending(code)}{said}"

    def _listen(self, stream: IO[bytes]) -> None:
        for line in stream:
            text = line.decode(errors="replace").rstrip()
            if text:
                self.lines.append(text)
                self._heard(text)


def ending(code: int) -> str:
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
