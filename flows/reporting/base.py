"""How a stage says what it is doing, without knowing who listens.

A terminal shows progress bars, a Prefect run shows progress artifacts, a plain script only logs.
"""

import contextlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Protocol

log = logging.getLogger("tintem")


class Advance(Protocol):
    """Told of every unit of work that is done."""

    def __call__(self, done: int, /, says: str = "") -> None:
        """Count ``done`` more units; ``says`` takes the place of what was said before, if given."""


class Reporter(Protocol):
    """Where progress and notes go."""

    def track(self, title: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        """Follow ``total`` units of work; the function given back is called with units done."""

    def note(self, text: str) -> None:
        """Say one finished fact."""


class LogReporter:
    """Notes go to the log; progress is not shown."""

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        log.info("%s: %d %s", title, total, unit)
        yield _unheard

    def note(self, text: str) -> None:
        log.info(text)


def _unheard(done: int, /, says: str = "") -> None:
    del done, says


class Broadcast:
    """Several reporters at once."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        with contextlib.ExitStack() as stack:
            followers = [stack.enter_context(r.track(title, total, unit)) for r in self._reporters]

            def advance(done: int, /, says: str = "") -> None:
                for follower in followers:
                    follower(done, says)

            yield advance

    def note(self, text: str) -> None:
        for reporter in self._reporters:
            reporter.note(text)


class Prefixed:
    """Says of everything whose it is: for reporters that hear of several things at once."""

    def __init__(self, name: str, target: Reporter) -> None:
        self._name, self._target = name, target

    def track(self, title: str, total: int, unit: str) -> AbstractContextManager[Advance]:
        return self._target.track(f"{self._name}: {title}", total, unit)

    def note(self, text: str) -> None:
        self._target.note(f"{self._name}: {text}")


_CURRENT: ContextVar[Reporter] = ContextVar("reporter")


def reporter() -> Reporter:
    """Return the reporter of the current run; the log, where nobody else listens."""
    return _CURRENT.get(LogReporter())


@contextlib.contextmanager
def reporting_to(target: Reporter) -> Iterator[None]:
    """Send everything reported inside the block to ``target``."""
    token = _CURRENT.set(target)
    try:
        yield
    finally:
        _CURRENT.reset(token)
