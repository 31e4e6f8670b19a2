"""A Prefect server and a worker on this machine, in the background: `tintem up`, `tintem down`.

Nothing is remembered about them in a file that could be wrong after a crash or a reboot: whatever
is started here, and whatever that starts, carries a mark in its environment, and is found by it.
"""

import contextlib
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import psutil

from flows.orchestration.ephemeral import (
    data_folder,
    is_prefect,
    make_private,
    wait_for_server,
)
from tintem_core.errors import InputError

PORT = 4200
POOL, QUEUE = "tintem", "gpu"
_MARK = "TINTEM_UP"
_VACUUM = "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# A run that is asked to end records that it did; a stuck one is not waited for.
_SECONDS_TO_END = 30


@dataclass(frozen=True)
class Services:
    """The server and the worker that belong to this user's data folder."""

    home: Path

    @classmethod
    def of_this_user(cls) -> "Services":
        return cls(data_folder() / "up")

    def processes(self) -> list[psutil.Process]:
        """Every process that was started from here, directly or not, oldest first."""
        found = [process for process in psutil.process_iter() if self._is_ours(process)]
        return sorted(found, key=lambda process: process.create_time())

    def server(self) -> psutil.Process | None:
        return self._one_that_runs("server")

    def worker(self) -> psutil.Process | None:
        return self._one_that_runs("worker")

    def worker_url(self) -> str | None:
        """Whose runs the worker takes, if it runs."""
        worker = self.worker()
        return None if worker is None else worker.environ().get("PREFECT_API_URL")

    def api_url(self) -> str | None:
        """Where the server answers, if it runs."""
        server = self.server()
        if server is None:
            return None
        command = server.cmdline()
        return f"http://127.0.0.1:{command[command.index('--port') + 1]}/api"

    def key(self) -> str | None:
        """What the server asks for, if it runs and was given a key."""
        server = self.server()
        return None if server is None else server.environ().get("PREFECT_SERVER_API_AUTH_STRING")

    def start_server(self, port: int) -> str:
        """Start the server and wait until it answers; returns the URL of its API.

        Raises:
            InputError: if something else has the port.
            TintemError: if the server does not come up.
        """
        refuse_taken(port)
        url = f"http://127.0.0.1:{port}/api"
        command = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
        process = self._start("server", command, {
            # In memory, the runs' places in their queues would be lost with the server.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "10",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            # Else every run stays for ever; these go 90 days after their end.
            _VACUUM: os.environ.get(_VACUUM, "events,flow_runs"),
            "PREFECT_API_URL": url,
        })  # fmt: skip
        wait_for_server(url, process, self.home / "server.log")
        return url

    def start_worker(self, url: str, folder: Path) -> None:
        """Start a worker that takes one run at a time.

        Args:
            folder: that runs start in, with the code.
        """
        command = ["worker", "start", "--pool", POOL, "--limit", "1", "--name", worker_name()]
        self._start("worker", command, {
            "PREFECT_API_URL": url,
            "PREFECT_WORKER_QUERY_SECONDS": "3",
            "TINTEM_HOME": str(folder),
        })  # fmt: skip

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[Callable[[], bool]]:
        """End what is started inside the block if the block does not come to its end.

        Yields:
            Whether anything was started since.
        """
        before = {process.pid for process in self.processes()}

        def begun() -> list[psutil.Process]:
            return [process for process in self.processes() if process.pid not in before]

        try:
            yield lambda: bool(begun())
        except BaseException:
            _end(begun())
            raise

    def runs(self) -> dict[UUID, psutil.Process]:
        """Flow runs by their id, as far as their processes live; also without a worker."""
        return _runs_of(self.processes())

    def stop_worker(self) -> int:
        """End the runs, which record it, then the worker; returns how many processes ended."""
        # A worker that is asked to end kills its runs before they can say a word.
        runs = list(self.runs().values())
        _end(runs)
        rest = [process for process in self.processes() if not _runs(process, "server")]
        _end(rest)
        return len(runs) + len(rest)

    def stop_server(self) -> int:
        """End what is left; returns how many processes ended."""
        rest = self.processes()
        _end(rest)
        return len(rest)

    def _one_that_runs(self, what: str) -> psutil.Process | None:
        return next((p for p in self.processes() if _runs(p, what)), None)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(_MARK) == str(self.home) and process.pid != os.getpid()
        except (psutil.Error, OSError):
            return False

    def _start(
        self, name: str, command: Sequence[str], environment: dict[str, str]
    ) -> "subprocess.Popen[bytes]":
        make_private(self.home)
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "prefect", *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                cwd=self.home,
                env={
                    **os.environ,
                    "PREFECT_HOME": str(self.home),
                    "PREFECT_CLI_PROMPT": "false",
                    "DO_NOT_TRACK": "1",
                    **environment,
                    _MARK: str(self.home),
                },
            )  # fmt: skip


def worker_name() -> str:
    """Return the name of the worker that is started here."""
    return platform.node() or "worker"


def living_runs() -> dict[UUID, psutil.Process]:
    """Flow runs of this machine by their id, also those of workers that were started by hand."""
    return _runs_of(psutil.process_iter())


def living_workers(url: str) -> set[str]:
    """Names of the workers of this machine that take runs from a server, started by hand or not.

    One of another user, or one that was given no name, is not among them.
    """
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, ValueError, IndexError):
            command = process.cmdline()
            start = command.index("worker")
            if Path(command[start - 1]).name != "prefect" or command[start + 1] != "start":
                continue
            # Another user's processes, whose runs cannot be told, show no environment.
            if process.environ().get("PREFECT_API_URL", url) == url:
                found.add(_name_given(command[start:]))
    return found


def refuse_taken(port: int) -> None:
    """Make sure that a server can listen.

    Raises:
        InputError: if something else does; says what.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise InputError(f"port {port} is not for everybody: choose one above 1023.") from error
        except OSError as error:
            url = f"http://127.0.0.1:{port}/api"
            if is_prefect(url, patience=1.0):
                raise InputError(
                    f"port {port} is taken by another Prefect server: set PREFECT_API_URL={url} "
                    "to use it, or give another port with --port."
                ) from error
            raise InputError(
                f"port {port} is taken by another program: give another one with --port."
            ) from error


def given_api() -> str | None:
    """Return PREFECT_API_URL where it names a server that is not to be started here.

    However this machine itself is called there, the URL is the one that services are known by.
    """
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if not url:
        return None
    if urlsplit(url).hostname in _LOOPBACK:
        if not is_prefect(url):
            return None
        here = f"http://127.0.0.1:{given_port()}/api"
        return here if is_prefect(here) else url
    return url


def given_port() -> int:
    """Return the port that PREFECT_API_URL names, or the usual one.

    Raises:
        InputError: if it names none that there could be.
    """
    url = os.environ.get("PREFECT_API_URL", "")
    try:
        return urlsplit(url).port or PORT
    except ValueError as error:
        raise InputError(f"PREFECT_API_URL is {url}, which has no valid port.") from error


def _runs_of(processes: Iterable[psutil.Process]) -> dict[UUID, psutil.Process]:
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError, KeyError):
            if process.cmdline()[1:3] == ["-m", "prefect.engine"]:
                found[UUID(process.environ()["PREFECT__FLOW_RUN_ID"])] = process
    return found


def _name_given(command: list[str]) -> str:
    for index, word in enumerate(command):
        if word.startswith("--name="):
            return word.removeprefix("--name=")
        if word in ("--name", "-n"):
            return command[index + 1]
    raise ValueError("no name")


def _runs(process: psutil.Process, what: str) -> bool:
    try:
        return process.cmdline()[1:5] == ["-m", "prefect", what, "start"]
    except psutil.Error:
        return False


def _end(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stuck = psutil.wait_procs(processes, timeout=_SECONDS_TO_END)
    for process in stuck:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stuck, timeout=_SECONDS_TO_END)
