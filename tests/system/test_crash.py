"""Runs of deployments, on the server and the worker of `tintem up`, of which something is killed.

What is killed is shown as Crashed; the same run again does only what was lost.
"""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.events.schemas.automations import AutomationCore, EventTrigger

from tests.runs import write_config
from tests.services import Machine, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STAGES = ["index", "extract", "map", "train", "evaluate", "export"]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("home"))
    machine.up()
    yield machine
    machine.tintem("down")
    assert machine.services.processes() == []


@pytest.fixture
def settings(settings: dict[str, Any], photo_folder: Callable[..., Path]) -> dict[str, Any]:
    """A run whose stages take some seconds each."""
    photo_folder(96, classes=("disc", "plain"), first=48)
    settings["cache"]["rows_per_shard"] = 1
    settings["views"]["count"] = 8
    settings["mapping"]["steps"] = 10_000
    settings["training"]["epochs"] = 30
    settings["evaluation"]["resamples"] = 100_000
    settings["runtime"]["checkpoint_seconds"] = 0
    return settings


def files(root: Path) -> dict[str, int]:
    """When each finished shard, and each finished thing, was written.

    A shard is finished by its commit: values of another one are lost with whoever wrote them.
    """
    things = [*root.glob("caches/*/commits/*.json"), *root.glob("*/*/record.json")]
    return {str(path): path.stat().st_mtime_ns for path in things if path.is_file()}


@pytest.mark.timeout(1500)
def test_a_run_killed_in_every_stage_goes_on_where_it_was(
    machine: Machine, settings: dict[str, Any], tmp_path: Path
) -> None:
    config, root = write_config(tmp_path, settings), Path(settings["root"])

    def shards() -> int:
        return len(list(root.glob("caches/*light*/commits/*.json")))

    def step() -> int:
        found = [json.loads(path.read_text())["step"] for path in root.glob("*/*/progress.json")]
        return max(found, default=0)

    moments = {
        "extract": lambda: shards() >= 3,
        "map": lambda: list(root.glob("leases/mappings/*.json")),
        "train": lambda: step() >= 20,
        "evaluate": lambda: list(root.glob("leases/evaluations/*.json")),
        "export": lambda: list(root.glob("leases/exports/*.json")),
    }
    before: dict[str, int] = {}
    for stage, moment in moments.items():
        run = machine.start(config)
        wait_until(lambda run=run: run in machine.services.runs())  # type: ignore[misc]
        # Found before, as looking through all processes of a machine takes its time.
        doomed = machine.services.worker(), machine.services.runs()[run]
        wait_until(moment, pause=0.02)
        reached = step()
        machine.kill(*doomed)
        assert machine.read(run).state_name == "Running"
        done = files(root)
        assert before.items() <= done.items(), f"done again before {stage}"
        before = done
        machine.up()
        assert machine.read(run).state_name == "Crashed"
        assert machine.stages(run)[stage] == "Crashed"
        if stage == "train":
            trained_to = reached
    assert shards() > 3

    run = machine.start(config)
    ended = machine.wait_for(run, "Completed", "Failed", "Crashed")
    assert ended.state_name == "Completed", ended.state
    assert machine.stages(run) == dict.fromkeys(STAGES, "Completed")
    assert before.items() <= files(root).items()
    (student,) = root.glob("students/*/record.json")
    assert json.loads(student.read_text())["resumed_at_step"] >= trained_to > 0
    assert not [path for path in root.glob("leases/**/*") if path.is_file()]


def test_a_run_outlives_its_worker_and_a_server_that_is_started_again(
    machine: Machine, settings: dict[str, Any], tmp_path: Path
) -> None:
    config, root = write_config(tmp_path, settings), Path(settings["root"])
    run = machine.start(config)
    wait_until(lambda: list(root.glob("leases/caches/*.json")))
    machine.kill(machine.services.worker())
    wait_until(lambda: list(root.glob("students/*/progress.json")))
    machine.kill(machine.services.server())
    machine.up()
    assert machine.read(run).state_name in ("Running", "Completed")
    ended = machine.wait_for(run, "Completed", "Failed", "Crashed")
    assert ended.state_name == "Completed", ended.state
    with machine.client() as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        )
    assert [str(artifact.key).endswith("-report") for artifact in found] == [True]


@pytest.fixture
def impatient(machine: Machine) -> Iterator[None]:
    """Five minutes of silence pass in 40 seconds."""
    with machine.client() as client:
        (known,) = (a for a in client.read_automations() if a.name == "tintem-run-died")
        assert isinstance(known.trigger, EventTrigger)
        trigger = known.trigger.model_copy(update={"within": timedelta(seconds=40)})
        usual = AutomationCore(**known.model_dump(exclude={"id", "owner_resource"}))
        client.update_automation(known.id, usual.model_copy(update={"trigger": trigger}))
    yield
    with machine.client() as client:
        client.update_automation(known.id, usual)


@pytest.mark.usefixtures("impatient")
def test_a_dead_run_is_shown_as_crashed_though_nobody_is_left_to_report_it(
    machine: Machine, settings: dict[str, Any], tmp_path: Path
) -> None:
    config, root = write_config(tmp_path, settings), Path(settings["root"])
    run = machine.start(config)
    wait_until(lambda: list(root.glob("leases/caches/*.json")))
    assert {"heartbeat-30s", "tintem"} <= set(machine.read(run).tags)
    machine.kill(machine.services.worker(), machine.services.runs()[run])
    died = machine.wait_for(run, "Crashed")
    assert "No sign of life" in str(died.state and died.state.message)
    wait_until(lambda: machine.stages(run)["extract"] == "Crashed")
    # The one that reads as dead to the worker's own machine is not asked for twice.
    machine.up()
    assert machine.read(run).state_name == "Crashed"


def test_a_night_that_comes_while_the_last_one_runs_is_cancelled(
    machine: Machine, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["training"]["epochs"] = 400
    config, root = write_config(tmp_path, settings), Path(settings["root"])
    first = machine.start(config, "nightly/nightly")
    wait_until(lambda: list(root.glob("leases/caches/*.json")))
    second = machine.start(config, "nightly/nightly")
    ended = machine.wait_for(second, "Cancelled", "Completed", "Failed", "Crashed")
    assert ended.state_name == "Cancelled"
    assert machine.read(first).state_name == "Running"
    process = machine.services.runs()[first]
    process.terminate()
    # The worker lives, and reports it.
    assert machine.wait_for(first, "Crashed", "Completed").state_name == "Crashed"
