"""A command in a process of its own, whose end is looked at closely."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil

from tests.system.torture_changes import Doom
from tests.system.torture_preloaded import Forked, Preloaded

_MARK = "TINTEM_TORTURED"
_TINTEM = Path(sys.executable).with_name("tintem")
# A private server sees at once that its command is gone; workers of a loader look every 5 s.
_ORPHAN_SECONDS = 20.0
# What a command says last when all is done.
_OVER = r"\nDone in \d+ s\.\s*$|\n  embedded/\S+\s*$"
_OF_TERMINALS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class TortureError(Exception):
    """A kill has done harm."""


def environment_in(folder: Path) -> dict[str, str]:
    """Return the environment of commands that work in a folder."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "XDG_DATA_HOME": str(folder / "home"),
        _MARK: str(folder),
    }


class Command:
    """`tintem` with some words, started in a folder.

    Args:
        folder: its working directory; its log and what belongs to the user lie there too.
        words: after `tintem`.
        preloaded: what it is forked from; None: it is started as a user does.
        doom: when a forked one dies by itself.
    """

    def __init__(
        self,
        folder: Path,
        words: Sequence[str],
        preloaded: Preloaded | None = None,
        doom: Doom | None = None,
    ) -> None:
        self.words, self._mark = list(words), str(folder)
        self._log = folder / "said.log"
        self._others = {os.getpid()}
        self.process: subprocess.Popen[bytes] | Forked
        if preloaded is not None:
            self._others.add(preloaded.pid)
            self.process = preloaded.start(words, folder, self._log, doom)
            return
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(_TINTEM), *words], cwd=folder, env=environment_in(folder),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def __enter__(self) -> "Command":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.kill(with_children=True)
        if kind is None:
            self._refuse_orphans()

    @property
    def said(self) -> str:
        return _OF_TERMINALS.sub("", self._log.read_text())

    def kill(self, *, with_children: bool) -> None:
        """End it as the kernel does that is out of memory; with its children, as a power cut."""
        # One that has just ended has no children left.
        doomed: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            doomed = [psutil.Process(self.process.pid)]
            doomed += doomed[0].children(recursive=True) if with_children else []
        for each in doomed:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGKILL)
        self.process.wait()

    def expect_success(self, seconds: float) -> None:
        """Wait for its end.

        Raises:
            TortureError: if it fails, or does not end.
        """
        self._expect_code(0, seconds)

    def expect_end(self, code: int, sentence: str, seconds: float) -> None:
        """Wait for the end that a signal makes: soon, with a sentence as the last line.

        Raises:
            TortureError: if it ends otherwise.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        said = self.said
        # Python hears no signal any more on its way out, which ends it then.
        is_over = self.process.returncode in (0, 128 - code) and "Traceback" not in said
        if is_over and re.search(_OVER, said):
            return
        self._expect_code(code, 0)
        if said.strip().splitlines()[-1:] != [sentence] or "Traceback" in said:
            raise TortureError(f"{self.words} did not end with one sentence:\n{said}")

    def _expect_code(self, code: int, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        if self.process.poll() != code:
            ended = self.process.returncode
            how = "does not end" if ended is None else f"ended with {ended}"
            raise TortureError(f"{self.words} {how}, wanted {code}:\n{self.said}")

    def _refuse_orphans(self) -> None:
        deadline = time.monotonic() + _ORPHAN_SECONDS
        while left := self._left():
            if time.monotonic() > deadline:
                told = "; ".join(" ".join(each.cmdline()) for each in left)
                raise TortureError(f"{self.words} has left processes: {told}")
            time.sleep(0.1)

    def _left(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == self._mark and process.pid not in self._others:
                    found.append(process)
        return found
