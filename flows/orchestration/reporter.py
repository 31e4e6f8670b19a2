"""Progress as Prefect artifacts, notes as run logs.

A run neither ends nor waits because Prefect cannot be told how far it is: the next update says it.
"""

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.reporting.base import Advance

_SECONDS_BETWEEN_UPDATES = 5.0


def if_heard() -> contextlib.suppress:
    """Do without what the block tells Prefect, where Prefect cannot be reached."""
    return contextlib.suppress(httpx.HTTPError)


class PrefectReporter:
    """Reports into the Prefect run that the code runs in, which outlives its worker."""

    def __init__(self) -> None:
        for handler in logging.root.handlers:
            if isinstance(handler, PrefectConsoleHandler):
                # A worker reads what its runs print. Where nobody does any more, Rich would end
                # the program at the next line.
                handler.console.on_broken_pipe = _print_to_nobody  # type: ignore[method-assign]

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        get_run_logger().info("%s: %s %s", title, total or "counting", unit)
        if not total:
            yield _uncounted
            return
        progress = _Progress(title, total, unit)
        yield progress.advance
        progress.show()
        said = progress.says and f", {progress.says}"
        get_run_logger().info("%s: done in %.1f s%s", title, progress.seconds, said)

    def note(self, text: str) -> None:
        get_run_logger().info(text)


def _print_to_nobody() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def _uncounted(done: int, /, says: str = "") -> None:
    del done, says


class _Progress:
    """One progress artifact, and how far it is."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = 0
        self.says = ""
        """What was last said of it."""
        self._artifact: UUID | None = None
        self._started = self._shown_at = time.monotonic()
        self.show()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def advance(self, done: int, /, says: str = "") -> None:
        self._done += done
        self.says = says or self.says
        if time.monotonic() - self._shown_at > _SECONDS_BETWEEN_UPDATES:
            self.show()

    def show(self) -> None:
        percent = min(100.0, 100.0 * self._done / self._total)
        about = f"{self._title}: {self._done:,} of {self._total:,} {self._unit}"
        if self._done and self.seconds >= 1:
            about += f", {self._done / self.seconds:,.1f}/s"
        if self.says:
            about += f", {self.says}"
        # A client that was connected before waits for minutes, and the work with it.
        with if_heard(), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            if self._artifact is None:
                key = re.sub(r"[^a-z0-9]+", "-", self._title.lower()).strip("-")
                artifact = create_progress_artifact(percent, key, about)
                assert isinstance(artifact, UUID)
                self._artifact = artifact
            else:
                update_progress_artifact(self._artifact, percent, about)
        self._shown_at = time.monotonic()
