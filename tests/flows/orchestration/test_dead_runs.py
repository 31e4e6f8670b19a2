"""Which runs `tintem up` shows as Crashed: those that certainly have no process any more."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun, Worker
from prefect.exceptions import ObjectNotFound

from flows.orchestration import dead_runs
from flows.orchestration.dead_runs import declare_dead
from flows.orchestration.services import living_runs, living_workers

URL = "http://127.0.0.1:4200/api"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a process that has the command line of one of Prefect's, and sleeps."""
    package = tmp_path / "prefect"
    package.mkdir()
    for name in ("__init__", "engine", "__main__"):
        (package / f"{name}.py").write_text("import time\ntime.sleep(60)\n")
    started: list[subprocess.Popen[bytes]] = []

    def starting(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *arguments]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment))
        return started[-1]

    yield starting
    for process in started:
        process.kill()
        process.wait()


def test_a_run_of_a_worker_started_by_hand_is_known(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    run = uuid4()
    process = start("prefect.engine", PREFECT__FLOW_RUN_ID=str(run))
    assert living_runs()[run].pid == process.pid
    process.kill()
    process.wait()
    assert run not in living_runs()


def test_workers_of_this_machine_are_known_by_their_names(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    pool = ("prefect", "worker", "start", "--pool", "tintem")
    start(*pool, "--name", "gpu-1", PREFECT_API_URL=URL)
    start(*pool, "--name=gpu-2")
    start(*pool, PREFECT_API_URL=URL)
    start(*pool, "--name", "gpu-9", PREFECT_API_URL="http://elsewhere:4200/api")
    found = living_workers(URL)
    assert {"gpu-1", "gpu-2"} <= found
    assert "gpu-9" not in found


class Server:
    """Runs and workers of a pool, read in pages of two."""

    def __init__(self, runs: dict[UUID, StateType], heard: dict[str, timedelta]) -> None:
        self.runs = runs
        self.tasks = [uuid4() for _ in range(5)]
        self.crashed: set[UUID] = set()
        self.has_pool = True
        self.workers = [
            Worker(name=name, work_pool_id=uuid4(), last_heartbeat_time=datetime.now(UTC) - ago)
            for name, ago in heard.items()
        ]

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read_flow_runs(
        self, *, flow_run_filter: Any, work_pool_filter: Any = None, offset: int = 0
    ) -> list[FlowRun]:
        if work_pool_filter is None:
            # None has runs inside.
            return []
        states = flow_run_filter.state.type.any_
        found = [run for run, state in self.runs.items() if state in states]
        return [FlowRun(id=run, flow_id=uuid4()) for run in found[offset : offset + 2]]

    def read_task_runs(self, *, offset: int = 0, **_: Any) -> list[TaskRun]:
        found = self.tasks[offset : offset + 2]
        return [TaskRun(id=task, task_key="", dynamic_key="") for task in found]

    def read_work_pool(self, name: str) -> None:
        if not self.has_pool:
            raise ObjectNotFound(Exception(name))

    def read_workers_for_work_pool(self, work_pool_name: str, offset: int = 0) -> list[Worker]:
        assert work_pool_name == "tintem"
        return self.workers[offset : offset + 2]

    def set_flow_run_state(self, run: UUID, state: Any, force: bool) -> None:
        assert force
        assert state.type is StateType.CRASHED
        self.crashed.add(run)

    set_task_run_state = set_flow_run_state


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    def serving(*states: StateType, **heard: timedelta) -> Server:
        server = Server({uuid4(): state for state in states}, heard)
        monkeypatch.setattr(dead_runs, "get_client", lambda sync_client: server)
        return server

    return serving


NOW, LONG_AGO = timedelta(seconds=5), timedelta(hours=1)


def test_every_page_of_what_has_no_process_is_crashed(serve: Callable[..., Server]) -> None:
    server = serve(*[StateType.RUNNING] * 4, StateType.PENDING, here=NOW, gone=LONG_AGO)
    alive, *dead = server.runs
    assert declare_dead(lambda: {alive}, "here", ()) == 4
    assert server.crashed == {*dead, *server.tasks}


def test_a_run_that_another_machine_may_have_is_left_alone(serve: Callable[..., Server]) -> None:
    server = serve(StateType.RUNNING, here=NOW, beside=NOW, away=NOW)
    assert declare_dead(set, "here", {"beside"}) == 0
    assert server.crashed == set()
    assert declare_dead(set, "here", {"beside", "away"}) == 1


def test_what_a_worker_beside_has_just_taken_is_left_alone(serve: Callable[..., Server]) -> None:
    server = serve(StateType.PENDING, StateType.RUNNING, here=NOW, beside=NOW)
    _, running = server.runs
    assert declare_dead(set, "here", {"beside"}) == 1
    assert server.crashed == {running, *server.tasks}


def test_a_run_that_begins_meanwhile_is_not_taken_for_dead(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(here=NOW)
    processes: set[UUID] = set()
    read = server.read_flow_runs

    def begin_and_read(**query: Any) -> list[FlowRun]:
        if not processes:
            processes.add(uuid4())
            server.runs.update(dict.fromkeys(processes, StateType.RUNNING))
        return read(**query)

    monkeypatch.setattr(server, "read_flow_runs", begin_and_read)
    assert declare_dead(lambda: frozenset(processes), "here", ()) == 0
    assert processes
    assert server.crashed == set()


def test_a_server_without_the_pool_has_no_dead_runs(serve: Callable[..., Server]) -> None:
    server = serve(StateType.RUNNING, here=NOW)
    server.has_pool = False
    assert declare_dead(set, "here", ()) == 0
    assert server.crashed == set()
