"""Commands forked from a process that has imported everything: a start costs nothing.

Most of a short command is spent on importing torch, and on a Prefect server of its own. Here both
are there already; what a command does, and how a kill ends it, is the same.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.system.torture_changes import Doom

_IMPORTED = "imported.json"
_LOOK_EVERY = 0.005


class Forked:
    """A forked command, as :class:`subprocess.Popen` shows one."""

    def __init__(self, preloaded: "Preloaded", pid: int) -> None:
        self._preloaded, self.pid = preloaded, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._preloaded.code_of(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = time.monotonic() + (1e9 if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired("tintem", timeout or 0)
            time.sleep(_LOOK_EVERY)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Preloaded:
    """A process that forks commands; it never computes anything itself, so that a fork is safe.

    Args:
        folder: remembers which modules a command imports.
        environment: of the commands.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder / _IMPORTED)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.pid = self._process.pid

    def start(
        self, words: Sequence[str], folder: Path, log: Path, doom: Doom | None = None
    ) -> Forked:
        """Fork a command.

        Args:
            words: after `tintem`.
            folder: its working directory.
            log: for what it says.
            doom: when it dies; None: when it is killed, or ends.
        """
        question = {"words": list(words), "folder": str(folder), "log": str(log)}
        told = self._ask(question | {"doom": doom})
        return Forked(self, told["pid"])

    def code_of(self, pid: int) -> int | None:
        """Return the exit code of a command that has ended, negative for a signal."""
        found: int | None = self._ask({"pid": pid})["code"]
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _serve(imported: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in json.loads(imported.read_text()) if imported.exists() else []:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        print(f"warning: {threads} threads in a process that forks", file=sys.stderr)
    for line in sys.stdin:
        question = json.loads(line)
        if "words" in question:
            answer: dict[str, Any] = {"pid": _forked(question, imported)}
        else:
            ended, status = os.waitpid(question["pid"], os.WNOHANG)
            answer = {"code": os.waitstatus_to_exitcode(status) if ended else None}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _forked(question: dict[str, Any], imported: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(question["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    os.chdir(question["folder"])
    if question["doom"] is not None:
        Doom(*question["doom"]).expect()
    sys.argv = ["tintem", *question["words"]]
    code: Any = 0
    try:
        from flows.cli import main

        main()
    except SystemExit as ended:
        code = ended.code
    except Exception:  # noqa: BLE001  # the interpreter prints it, and ends with 1
        traceback.print_exc()
        code = 1
    if not imported.exists():
        imported.write_text(json.dumps(list(sys.modules)))
    sys.stdout.flush()
    sys.stderr.flush()
    # As a command's interpreter ends that has nothing to clean up.
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _serve(Path(sys.argv[1]))
