"""`tintem up`, a run of a deployment on real photos, `tintem down`: what a user types."""

import json
import os
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psutil
import pytest
import yaml
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from typer.testing import CliRunner

from flows.cli.server import app
from flows.config.demo import prepare
from flows.orchestration.services import PORT, Services, given_api, given_port, refuse_taken
from tests.services import Machine, postgresql
from tintem_core.errors import InputError


def test_a_port_that_is_taken_is_refused_with_the_cure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} is taken by another program.*--port"):
            refuse_taken(port)
    refuse_taken(port)


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        (None, None),
        ("http://127.0.0.1:9/api", None),
        ("http://localhost:9/api", None),
        ("http://prefect.example:4200/api", "http://prefect.example:4200/api"),
    ],
)
def test_a_server_elsewhere_is_used_and_one_here_is_started(
    url: str | None, remote: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("PREFECT_API_URL", url)
    assert given_api() == remote
    assert given_port() == (9 if url and remote is None else PORT)


@pytest.mark.parametrize("port", ["0", "99999"])
def test_a_port_that_cannot_be_is_a_mistake(port: str) -> None:
    said = CliRunner().invoke(app, ["up", "--port", port])
    assert said.exit_code == 2
    assert "Invalid value for '--port'" in said.output


def test_only_what_was_started_from_here_is_found(tmp_path: Path) -> None:
    here, elsewhere = Services(tmp_path / "a"), Services(tmp_path / "b")
    for services in (here, elsewhere):
        services.home.mkdir()
    sleeper = [psutil.Popen(
        ["sleep", "60"], env={**os.environ, "TINTEM_UP": str(services.home)}
    ) for services in (here, elsewhere)]  # fmt: skip
    try:
        assert [process.pid for process in here.processes()] == [sleeper[0].pid]
        assert here.stop_worker() == 1
        assert here.processes() == []
        assert sleeper[1].is_running()
    finally:
        sleeper[1].kill()
        for process in sleeper:
            process.wait()


def _sleep(services: Services) -> psutil.Popen:
    services.home.mkdir(exist_ok=True)
    process = psutil.Popen(["sleep", "60"], env={**os.environ, "TINTEM_UP": str(services.home)})
    # On a busy machine the environment is not there yet when the process is.
    while "TINTEM_UP" not in process.environ():
        time.sleep(0.01)
    return process


def test_what_was_started_is_undone_where_the_rest_fails(tmp_path: Path) -> None:
    services = Services(tmp_path)
    before = _sleep(services)
    try:
        with pytest.raises(KeyboardInterrupt), services.undone_on_error() as begun:
            assert not begun()
            started = _sleep(services)
            assert begun()
            raise KeyboardInterrupt
        assert not started.is_running()
        assert before.is_running()
    finally:
        before.kill()
        before.wait()


def test_down_ends_a_server_that_answers_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    def answer(*_: object) -> None:
        raise RuntimeError("the pool is not there yet")

    monkeypatch.setattr(Services, "stop_worker", lambda _: 0)
    monkeypatch.setattr(Services, "api_url", lambda _: "http://127.0.0.1:9/api")
    monkeypatch.setattr(Services, "stop_server", lambda _: ended.append(1) or 1)
    monkeypatch.setattr("flows.cli.server.is_prefect", lambda _: True)
    monkeypatch.setattr("flows.cli.server._tell_the_dead", answer)
    monkeypatch.setenv("PREFECT_API_URL", "")
    CliRunner().invoke(app, ["down"])
    assert ended == [1]


def test_up_refuses_before_it_starts_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr(Services, "worker_url", lambda _: "http://elsewhere:4200/api")
    monkeypatch.setattr(Services, "start_server", lambda *_: pytest.fail("it was started"))
    said = CliRunner().invoke(app, ["up", "--port", "29871"])
    assert isinstance(said.exception, InputError)
    assert "`tintem down` ends it" in str(said.exception)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With PostgreSQL, as a server that stays; the other tests have SQLite, as a laptop."""
    with postgresql() as database:
        machine = Machine(tmp_path_factory.mktemp("home"), database)
        yield machine
        machine.tintem("down")
        asked = [database.replace("+asyncpg", ""), "-Atc", "SELECT count(*) FROM flow_run"]
        assert int(subprocess.check_output(["psql", *asked])) > 0


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """The quickstart with a few of its photos."""
    settings: dict[str, Any] = yaml.safe_load(prepare(tmp_path).read_text())
    settings["data"]["max_images"] = 100
    settings["views"]["count"] = 1
    settings["mapping"]["steps"] = 20
    settings["student"] = {"model": "mobilenetv3_small_050", "image_size": 64}
    settings["training"]["epochs"] = 3
    settings["evaluation"]["resamples"] = 100
    for source in settings["evaluation"]["ood"]:
        source["max_images"] = 20
    path = tmp_path / "cells.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_one_command_brings_everything_up_and_one_ends_it(machine: Machine, cells: Path) -> None:
    told = machine.up()
    assert f"up: http://127.0.0.1:{machine.port}" in told
    assert f"export PREFECT_API_URL={machine.url}" in told
    for name in ("distill/adhoc", "nightly/nightly", "sweep/sweep", "index/index", "train/train"):
        with machine.client() as client:
            deployment = client.read_deployment_by_name(name)
        assert {"tintem", "heartbeat-30s"} <= set(deployment.tags)
        assert "config" in deployment.parameter_openapi_schema["properties"]
        assert deployment.enforce_parameter_schema
        (pull,) = deployment.pull_steps or []
        assert list(pull.values()) == [{"directory": "{{ $TINTEM_HOME }}"}]
        assert deployment.work_queue_name == "gpu"
        assert deployment.global_concurrency_limit is not None
        assert deployment.global_concurrency_limit.limit == 1
        assert deployment.concurrency_options is not None
        strategy = "CANCEL_NEW" if name == "nightly/nightly" else "ENQUEUE"
        assert deployment.concurrency_options.collision_strategy == strategy
    first = {process.pid for process in machine.services.processes()}
    assert "up already" in machine.tintem("up")
    assert {process.pid for process in machine.services.processes()} == first

    parameters = machine.tintem("params", str(cells))
    said = machine.prefect("deployment", "run", "distill/adhoc", "--params", parameters, "--watch")
    assert "Completed" in said
    (run,) = (UUID(line.split()[-1]) for line in said.splitlines() if "UUID" in line)
    assert list(machine.stages(run).values()) == ["Completed"] * 6
    with machine.client() as client:
        ours = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        (report,) = client.read_artifacts(artifact_filter=ours)
        assert "data:image/png;base64" in str(report.data)
        kinds = {artifact.key: artifact.type for artifact in client.read_artifacts()}
        of_run = "mono-cells-mobilenetv3-small-050"
        for what in ("metrics", "summary"):
            assert kinds[f"{of_run}-{what}"] == "table"
        for what in ("training-curve", "ood-scores"):
            assert kinds[f"{of_run}-{what}"] == "markdown"
        assert kinds["train-mobilenetv3-small-050"] == "progress"

    wrong = json.loads(parameters)
    del wrong["config"]["teacher"]
    told = machine.prefect(
        "deployment", "run", "distill/adhoc", "--params", json.dumps(wrong), code=1
    )
    assert "teacher" in told

    assert "nights begin at 30 4 * * * (Europe/Berlin)" in machine.tintem(
        "schedule", str(cells), "--cron", "30 4 * * *", "--timezone", "Europe/Berlin"
    )
    night = nightly(machine)
    assert night.schedules[0].active
    assert night.parameters == json.loads(parameters)
    assert "is no cron expression" in machine.tintem(
        "schedule", str(cells), "--cron", "at night", code=2
    )

    assert "down: ended" in machine.tintem("down")
    assert machine.services.processes() == []
    assert "down already" in machine.tintem("down")

    # After an upgrade, everything is deployed anew: the nights go on.
    machine.up()
    with machine.client() as client:
        client.delete_variable_by_name("tintem_deployed")
    assert "deployed every flow" in machine.up()
    assert nightly(machine).schedules == night.schedules
    assert nightly(machine).parameters == night.parameters
    assert "no more nights" in machine.tintem("schedule", "--off")
    assert not nightly(machine).schedules[0].active
    # Half of it dies.
    machine.kill(machine.services.server())
    assert "down: ended" in machine.tintem("down")
    assert machine.services.processes() == []


def nightly(machine: Machine) -> Any:
    with machine.client() as client:
        return client.read_deployment_by_name("nightly/nightly")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_with_a_key_refuses_whoever_has_none(tmp_path: Path, cells: Path) -> None:
    machine = Machine(tmp_path / "home", key="tintem:of this test")
    try:
        machine.up()
        asked = httpx.post(f"{machine.url}/flows/filter", json={})
        assert asked.status_code == 401
        parameters = ["--params", machine.tintem("params", str(cells)), "--watch"]
        machine.prefect("deployment", "run", "index/index", *parameters, code=1)
        key = {"PREFECT_API_AUTH_STRING": "tintem:of this test"}
        said = machine.prefect("deployment", "run", "index/index", *parameters, **key)
        assert "Completed" in said
        # Of the server that `tintem up` started, the commands know it.
        assert "nights begin" in machine.tintem("schedule", str(cells))
        assert "up already" in machine.tintem("up")
        refused = machine.tintem("run", str(cells), code=2, PREFECT_API_URL=machine.url)
        assert "set PREFECT_API_AUTH_STRING" in refused
        assert "Traceback" not in refused
        assert stat.S_IMODE(machine.services.home.stat().st_mode) == 0o700
    finally:
        machine.tintem("down")
    assert machine.services.processes() == []
