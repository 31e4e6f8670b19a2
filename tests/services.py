"""`tintem up` in a test: a real server and a real worker, in a data folder of their own."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.config.load import load_config
from flows.orchestration.services import Services

BIN = Path(sys.executable).parent


class Machine:
    """The services below a folder, and what a user does with them.

    Args:
        database: where the server keeps what it knows; None: in SQLite.
        key: what the server asks for.
    """

    def __init__(self, home: Path, database: str | None = None, key: str | None = None) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.services = Services(home / "tintem" / "up")
        self._environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith("PREFECT_")},
            "XDG_DATA_HOME": str(home),
            # Of a worker that this user started by hand, from another checkout.
            "TINTEM_HOME": "/no/checkout",
            "OMP_NUM_THREADS": "1",
        }
        if key is not None:
            self._environment["PREFECT_SERVER_API_AUTH_STRING"] = key
        if database is not None:
            self._environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database

    def tintem(self, *arguments: str, code: int = 0, **environment: str) -> str:
        return self._run("tintem", *arguments, code=code, **environment)

    def prefect(self, *arguments: str, code: int = 0, **environment: str) -> str:
        return self._run("prefect", *arguments, code=code, PREFECT_API_URL=self.url, **environment)

    def up(self) -> str:
        return self.tintem("up", "--port", str(self.port))

    def _run(self, program: str, *arguments: str, code: int, **environment: str) -> str:
        done = subprocess.run(
            [str(BIN / program), *arguments],
            env={**self._environment, **environment}, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        with (
            temporary_settings({PREFECT_API_URL: self.url}),
            get_client(sync_client=True) as client,
        ):
            yield client

    def start(self, config: Path, deployment: str = "distill/adhoc") -> UUID:
        """Start a run; returns its id."""
        settings = load_config(config).model_dump(mode="json", exclude_unset=True)
        with self.client() as client:
            found = client.read_deployment_by_name(deployment)
            run = client.create_flow_run_from_deployment(found.id, parameters={"config": settings})
            return run.id

    def read(self, run: UUID) -> FlowRun:
        with self.client() as client:
            return client.read_flow_run(run)

    def stages(self, run: UUID) -> dict[str, str]:
        """State of each stage of a run, by the first word of its name, in order."""
        parent = FlowRunFilterParentFlowRunId(any_=[run])
        with self.client() as client:
            found = client.read_flow_runs(flow_run_filter=FlowRunFilter(parent_flow_run_id=parent))
        ordered = sorted(found, key=lambda stage: str(stage.created))
        return {stage.name.split()[0]: str(stage.state_name) for stage in ordered}

    def wait_for(self, run: UUID, *states: str, seconds: float = 240) -> FlowRun:
        found: list[FlowRun] = []

        def reached() -> bool:
            found[:] = [self.read(run)]
            return found[0].state_name in states

        wait_until(reached, seconds)
        return found[0]

    def kill(self, *processes: psutil.Process | None) -> None:
        for process in processes:
            assert process is not None
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs([process for process in processes if process], timeout=20)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Run Debian's PostgreSQL with an empty database; yields what Prefect calls it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert found, "this test needs a PostgreSQL: apt-get install postgresql"
    programs, port = found[-1].parent, str(free_port())
    with tempfile.TemporaryDirectory() as folder:
        owned: list[str | Path] = []
        if os.geteuid() == 0:
            # It refuses to run as root; Debian's package makes a user for it.
            shutil.chown(folder, "postgres", "postgres")
            owned = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        data = Path(folder) / "data"
        subprocess.run(
            [*owned, programs / "initdb", "-D", data, "-U", "prefect", "--auth=trust", "--no-sync"],
            check=True, capture_output=True, cwd=folder,
        )  # fmt: skip
        server = subprocess.Popen(
            [
                *owned, programs / "postgres", "-D", data,
                "-p", port, "-k", folder, "-h", "127.0.0.1",
            ],
            cwd=folder, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", port]
        try:
            wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, 60)
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            # A fast shutdown: whoever is still connected is cut off.
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)


def free_port() -> int:
    """Return a port that stays free until it is listened to, also while other tests run.

    Not one of those that systems give to whoever asks for any, as each test beside does.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(reached: Callable[[], Any], seconds: float = 240, pause: float = 0.2) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(pause)
