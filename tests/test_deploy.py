import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore, EventTrigger

from flows.nightly import state_name
from flows.nights.decide import Outcome
from flows.server.local import HEARTBEAT_SECONDS
from flows.server.up import POOL, QUEUE
from tests.conftest import photo
from tintem_core.export import run_onnx, session, to_onnx
from tintem_core.students import StudentConfig, build_student
from tintem_core.views import EVAL, render_view

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SCRIPT = DEPLOY / "embed_photos.py"
BEATS = f"heartbeat-{HEARTBEAT_SECONDS}s"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def deployments() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read("prefect.yaml")["deployments"]
    return found


def test_the_device_script_sees_what_the_evaluation_saw_and_needs_no_torch(tmp_path: Path) -> None:
    student = build_student(StudentConfig(model="test_resnet", image_size=64), 32, seed=0).eval()
    model = to_onnx(student, 64, {"tintem.image_size": "64"})
    (tmp_path / "student.onnx").write_bytes(model)
    images = [photo(seed, (90, 70)) for seed in range(3)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    blocked = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; "
    done = subprocess.run(
        [
            sys.executable, "-c", blocked + "runpy.run_path(sys.argv[0], run_name='__main__')",
            str(SCRIPT), str(tmp_path / "student.onnx"), str(tmp_path), "--out",
            str(tmp_path / "out.npz"),
        ],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    found = np.load(tmp_path / "out.npz")["embeddings"]
    pixels = np.stack([render_view(image, "k", 0, EVAL, 64, 64) for image in images])
    np.testing.assert_allclose(found, run_onnx(session(model), pixels), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("deployment", deployments(), ids=lambda found: found["name"])
def test_a_deployment_names_a_flow_and_is_guarded(deployment: dict[str, Any]) -> None:
    path, _, name = deployment["entrypoint"].partition(":")
    functions = {
        node.name: node
        for node in ast.parse((ROOT / path).read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert any("flow(" in ast.unparse(found) for found in functions[name].decorator_list)
    assert functions[name].args.args[0].arg == "config"
    assert deployment["enforce_parameter_schema"]
    assert deployment["concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_limit"]["collision_strategy"] in ("ENQUEUE", "CANCEL_NEW")
    pool = deployment["work_pool"]
    assert (pool["name"], pool["work_queue_name"]) == (POOL, QUEUE)
    # The tag promises what the environment makes true.
    assert BEATS in deployment["tags"]
    beats = pool["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]
    assert beats == str(HEARTBEAT_SECONDS)
    assert len(deployment["description"].split()) > 5


def test_every_stage_and_every_kind_of_run_is_deployed() -> None:
    entrypoints = {found["entrypoint"] for found in deployments()}
    stages = ("index", "extract", "map", "train", "evaluate", "export")
    assert entrypoints == {
        "flows/distill.py:distill", "flows/nightly.py:nightly", "flows/sweep.py:sweep",
        *(f"flows/distill.py:{stage}_flow" for stage in stages),
    }  # fmt: skip


def test_nights_do_not_overlap_and_wait_for_a_config() -> None:
    (night,) = (found for found in deployments() if found["name"] == "nightly")
    assert night["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    (schedule,) = night["schedules"]
    assert schedule["active"] is False
    assert schedule["cron"]
    assert schedule["timezone"]


def test_the_automations_wait_for_more_than_one_missed_heartbeat() -> None:
    found = [
        AutomationCore.model_validate(each) for each in read("automations.yaml")["automations"]
    ]
    died = found[0]
    for automation in found:
        assert isinstance(automation.trigger, EventTrigger)
        assert automation.actions[0].type == "change-flow-run-state"
    assert isinstance(died.trigger, EventTrigger)
    assert died.trigger.within.total_seconds() > 3 * HEARTBEAT_SECONDS
    assert f"prefect.tag.{BEATS}" in str(died.trigger.match_related)


def test_a_run_that_dies_before_its_first_heartbeat_is_missed_too() -> None:
    died = AutomationCore.model_validate(read("automations.yaml")["automations"][0]).trigger
    assert isinstance(died, EventTrigger)
    assert died.after == {"prefect.flow-run.heartbeat", "prefect.flow-run.Running"}


def test_a_run_that_has_ended_is_not_waited_for_however_its_end_is_called() -> None:
    died = AutomationCore.model_validate(read("automations.yaml")["automations"][0]).trigger
    assert isinstance(died, EventTrigger)
    nights = {state_name(outcome) for outcome in get_args(Outcome)}
    usual = {"Completed", "Failed", "Crashed", "Cancelled"}
    assert {f"prefect.flow-run.{name}" for name in nights | usual} <= died.expect


# What Docker would do cannot be tried here; what it reads can be.


def test_the_image_passes_the_linter_and_copies_what_there_is() -> None:
    tool = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([tool, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    copied = re.findall(r"^COPY (.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in names)
    packages = ("flows", "storage", "tintem_core", "tintem_pixels", "deploy")
    assert names == {*packages, "constraints.txt", "pyproject.toml", "README.md", "LICENSE"}
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert {f"!{name}" for name in names} == {line for line in ignored if line.startswith("!")}


def test_the_compose_file_fits_its_schema_and_names_commands_that_exist() -> None:
    tool = Path(sys.executable).parent / "check-jsonschema"
    path = DEPLOY / "compose.yaml"
    done = subprocess.run(
        [tool, "--builtin-schema", "vendor.compose-spec", path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    services = read("compose.yaml")["services"]
    assert set(services) == {"database", "server", "deploy", "worker", "worker-gpu"}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        program = service.get("command", "tintem").split()[0]
        assert (Path(sys.executable).parent / program).is_file()
        volumes = [volume.split(":")[0] for volume in service.get("volumes", [])]
        named = [volume for volume in volumes if not volume.startswith("$")]
        assert set(named) <= set(read("compose.yaml")["volumes"])
    worker, server = services["worker"], services["server"]
    assert worker["command"] == f"prefect worker start --pool {POOL} --limit 1"
    assert worker["environment"]["PREFECT_API_URL"] == "http://server:4200/api"
    assert server["environment"]["PREFECT_SERVER_DATABASE_DRIVER"] == "postgresql+asyncpg"
    assert server["environment"]["PREFECT_SERVER_DATABASE_HOST"] in services
