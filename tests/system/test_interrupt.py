"""Ctrl-C in a real terminal, SIGINT to the group, SIGTERM: one line, soon, and nothing is left."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.cli.interrupt import SENTENCE
from tests.runs import write_config
from tests.services import wait_until

_MARK = "TINTEM_TEST_INTERRUPT"
_LONGEST = 3.0
# What a terminal answers to the key, and what moves its cursor.
_OF_TERMINALS = re.compile(r"\^C|\x1b\[[0-9;?]*[A-Za-z]")
Interrupt = Callable[["Command"], None]


class Command:
    """A command in a terminal and a session of its own, as a shell starts it."""

    def __init__(self, *command: str, home: Path) -> None:
        self.master, terminal = pty.openpty()
        self.mark = str(home)
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=terminal, stdout=terminal, stderr=terminal,
            env={**os.environ, "XDG_DATA_HOME": str(home), _MARK: self.mark},
        )  # fmt: skip
        os.close(terminal)
        self.said = b""

    @property
    def program(self) -> psutil.Process:
        """The command itself."""
        return psutil.Process(self._process.pid)

    def wait(self, seconds: float) -> int:
        """Return the exit code; what was said is read meanwhile."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None:
            assert time.monotonic() < deadline, self.said.decode()
            self.read()
        self.read()
        return self._process.returncode

    def read(self) -> None:
        # A terminal that nobody has open any more is an error of input.
        with contextlib.suppress(OSError):
            while select.select([self.master], [], [], 0.05)[0]:
                self.said += os.read(self.master, 65536)

    def left(self) -> list[psutil.Process]:
        """Every process that was started by the command, directly or not."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == self.mark:
                    found.append(process)
        return found

    def close(self) -> None:
        for process in self.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        os.close(self.master)


@contextlib.contextmanager
def command(*words: str, home: Path) -> Iterator[Command]:
    started = Command(*words, home=home)
    try:
        yield started
    finally:
        started.close()


INTERRUPTS: dict[str, tuple[Interrupt, int]] = {
    "ctrl-c": (lambda run: os.write(run.master, b"\x03") and None, 130),
    "group": (lambda run: os.killpg(os.getpgid(run.program.pid), signal.SIGINT), 130),
    "sigterm": (lambda run: run.program.send_signal(signal.SIGTERM), 143),
}


def interrupt(run: Command, how: str) -> list[str]:
    """Interrupt a command; return the lines that it says after that."""
    send, code = INTERRUPTS[how]
    run.read()
    run.said = b""
    send(run)
    started = time.monotonic()
    assert run.wait(20) == code
    assert time.monotonic() - started < _LONGEST
    wait_until(lambda: not run.left(), _LONGEST, pause=0.05)
    lines = _OF_TERMINALS.sub("", run.said.decode()).splitlines()
    return [line.strip() for line in lines if line.strip()]


# With a child that hears no signal, and an error of a library on its way out.
_PROGRAM = """
    import hashlib, subprocess, time
    from flows.cli.interrupt import Interruption
    interruption = Interruption()
    try:
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        print("started", flush=True)
        while True:
            try:
                time.sleep(100)
            except KeyboardInterrupt:
                print("an error of a library", flush=True)
                {after}
    finally:
        interruption.leave()
"""


@pytest.mark.parametrize(
    "after", ["raise", "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"], ids=["ends", "hangs"]
)
@pytest.mark.parametrize("how", INTERRUPTS)
def test_an_interrupted_program_says_one_line_and_takes_its_children_with_it(
    how: str, after: str, tmp_path: Path
) -> None:
    program = textwrap.dedent(_PROGRAM).format(after=after)
    with command(sys.executable, "-c", program, home=tmp_path) as run:
        wait_until(lambda: run.read() or b"started" in run.said, 60, pause=0.01)
        said = interrupt(run, how)
    assert said == [SENTENCE]


# Modules are imported for a second before a command begins.
_IMPORTING = """
    import sys, time
    class Slow:
        def find_spec(self, name, *_):
            if name == "flows.cli.commands":
                print("started", flush=True)
                time.sleep(1000)
    sys.meta_path.insert(0, Slow())
    from flows.cli import main
    main()
"""


@pytest.mark.parametrize("how", INTERRUPTS)
def test_a_command_interrupted_while_it_is_imported_says_the_line_too(
    how: str, tmp_path: Path
) -> None:
    with command(sys.executable, "-c", textwrap.dedent(_IMPORTING), home=tmp_path) as run:
        wait_until(lambda: run.read() or b"started" in run.said, 60, pause=0.01)
        said = interrupt(run, how)
    assert said == [SENTENCE]


def _is_training(root: Path) -> bool:
    return any(
        json.loads(path.read_text())["step"] > 5 for path in root.glob("students/*/progress.json")
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("how", "runtime"),
    [
        ("ctrl-c", {}),
        ("group", {"loader_workers": 2}),
        ("sigterm", {"loader_workers": 2}),
        ("ctrl-c", {"processes": 2}),
    ],
    ids=["ctrl-c", "group-loaders", "sigterm-loaders", "ctrl-c-processes"],
)
def test_a_run_interrupted_while_it_trains_ends_at_once_and_goes_on(
    how: str, runtime: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["training"]["epochs"] = 100_000
    settings["runtime"].update(checkpoint_seconds=0.1, **runtime)
    config = write_config(tmp_path, settings)
    tintem = str(Path(sys.executable).parent / "tintem")
    with command(tintem, "run", str(config), home=tmp_path) as run:
        wait_until(lambda: run.read() or _is_training(Path(settings["root"])), 240)
        time.sleep(1)
        said = interrupt(run, how)
    # A bar that is drawn meanwhile may be the first of them.
    assert said[-1] == SENTENCE
    assert not any(word in " ".join(said) for word in ("Traceback", "Error", "httpx"))
    assert len(said) <= 3
