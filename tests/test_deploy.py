import ast
import io
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from prefect.events.schemas.automations import AutomationCore, EventTrigger

from flows.nightly import state_name
from flows.orchestration.ephemeral import HEARTBEAT_SECONDS
from flows.orchestration.services import POOL, QUEUE
from flows.retraining.decision import Outcome
from tests.exports import WIDTH, write_export
from tests.flows.serving.conftest import Running
from tests.photos import encoded, photo
from tintem_core.export.onnx import to_onnx
from tintem_core.export.runtime import run_onnx, session
from tintem_core.models.config import StudentConfig
from tintem_core.models.embedder import to_float
from tintem_core.models.student import build_student
from tintem_core.views import EVAL, decode_image, render_view
from tintem_pixels import load_pixels, load_square

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
DESCRIBED = ROOT / "flows" / "orchestration"
SCRIPT = DEPLOY / "embed_photos.py"
BEATS = f"heartbeat-{HEARTBEAT_SECONDS}s"


def read(name: str) -> Any:
    return yaml.safe_load((DESCRIBED / name).read_text())


def deployments() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read("prefect.yaml")["deployments"]
    return found


@pytest.mark.parametrize("front", ["image", "pixels"])
def test_the_device_script_sees_what_the_evaluation_saw_and_needs_no_torch(
    front: str, tmp_path: Path
) -> None:
    student = build_student(StudentConfig(model="test_resnet", image_size=64), 32, seed=0).eval()
    model = to_onnx(student, 64, {"tintem.image_size": "64"}, front)
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


def odd_photos() -> dict[str, bytes]:
    """Encoded photos that a plain `convert` and `resize` would get wrong."""
    wide = photo(1, (96, 48))
    grey = np.asarray(wide.convert("L"))
    turned = Image.Exif()
    turned[0x0112] = 6
    clear = wide.copy()
    clear.putalpha(Image.fromarray((grey > 128).astype(np.uint8) * 255))
    found: dict[str, bytes] = {}

    def add(name: str, image: Image.Image, **options: Any) -> None:
        buffer = io.BytesIO()
        image.save(buffer, name.rpartition(".")[2], **options)
        found[name] = buffer.getvalue()

    add("wide.png", wide)
    add("turned.jpeg", wide, exif=turned, quality=92)
    add("clear.png", clear)
    add("palette.gif", wide.quantize(32))
    add("inks.tiff", wide.convert("CMYK"))
    add("deep.png", Image.fromarray(grey.astype(np.uint16) * 257))
    add("dark.png", Image.fromarray(grey.astype(np.uint16)))
    add("fractions.tiff", Image.fromarray(grey.astype(np.float32) / 255))
    add("modern.webp", wide)
    return found


@pytest.mark.parametrize("name", odd_photos())
def test_a_device_sees_the_pixels_that_were_trained_on(name: str, tmp_path: Path) -> None:
    data = odd_photos()[name]
    (tmp_path / name).write_bytes(data)
    wanted = to_float(
        torch.from_numpy(render_view(decode_image(data), "k", 0, EVAL, 64, 64).copy())[None],
        torch.device("cpu"),
    )
    np.testing.assert_array_equal(load_pixels(tmp_path / name, 64), wanted[0].numpy())
    np.testing.assert_array_equal(load_pixels(data, 64), wanted[0].numpy())
    np.testing.assert_array_equal(
        load_square(data, 64).transpose(2, 0, 1) / np.float32(255), wanted[0]
    )


def test_the_snippet_of_the_readme_sees_odd_photos_as_the_evaluation_did(tmp_path: Path) -> None:
    student = build_student(StudentConfig(model="test_resnet", image_size=64), 32, seed=0).eval()
    model = to_onnx(student, 64, {"tintem.image_size": "64"}, "image")
    (tmp_path / "student_uint8.onnx").write_bytes(model)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (snippet,) = [block for block in blocks if "InferenceSession" in block]
    for name in ("wide.png", "turned.jpeg", "clear.png", "dark.png", "fractions.tiff"):
        data = odd_photos()[name]
        (tmp_path / "photo.jpg").write_bytes(data)
        code = "import sys; sys.modules['torch'] = None\n" + snippet
        code += "\nimport numpy; numpy.save('found.npy', embedding)\n"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
            timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        pixels = render_view(decode_image(data), "k", 0, EVAL, 64, 64)[None]
        wanted = run_onnx(session(model), pixels)[0]
        found = np.load(tmp_path / "found.npy")
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_device_script_leaves_out_what_it_cannot_read(tmp_path: Path) -> None:
    student = build_student(StudentConfig(model="test_resnet", image_size=64), 32, seed=0).eval()
    told = {"tintem.image_size": "64", "tintem.bits": "8"}
    (tmp_path / "student.onnx").write_bytes(to_onnx(student, 64, told))
    for name, data in odd_photos().items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "torn.png").write_bytes(odd_photos()["wide.png"][:99])
    command = [sys.executable, SCRIPT, tmp_path / "student.onnx", tmp_path]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(odd_photos())
    assert "torn.png is left out" in done.stderr


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


@pytest.mark.parametrize(
    ("file", "beside"), [("Dockerfile", {"deploy"}), ("serve.Dockerfile", set())]
)
def test_an_image_passes_the_linter_and_copies_what_there_is(file: str, beside: set[str]) -> None:
    tool = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([tool, DEPLOY / file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    copied = re.findall(r"^COPY (.*) \S+$", (DEPLOY / file).read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in names)
    packages = {"flows", "storage", "tintem_core", "tintem_pixels"}
    assert names == packages | beside | {
        "constraints.txt",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }
    ignored = (DEPLOY / f"{file}.dockerignore").read_text().split()
    assert {f"!{name}" for name in names} == {line for line in ignored if line.startswith("!")}


@pytest.mark.slow
def test_what_the_serving_image_installs_is_enough_to_answer(tmp_path: Path) -> None:
    commands = re.sub(r"\\\n", "", (DEPLOY / "serve.Dockerfile").read_text())
    installs = re.findall(r"^RUN pip (install .*)$", commands, re.MULTILINE)
    assert len(installs) == 2
    venv.create(tmp_path / "venv", with_pip=True)
    copied = tmp_path / "copied"
    copied.mkdir()
    for name in re.findall(r"^COPY (.*) \S+$", commands, re.MULTILINE):
        subprocess.run(["cp", "-r", *name.split(), copied], cwd=ROOT, check=True)
    for install in installs:
        pip = [tmp_path / "venv" / "bin" / "pip", "--quiet", *install.split()]
        subprocess.run(pip, cwd=copied, check=True, timeout=280)
    python = tmp_path / "venv" / "bin" / "python"
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 1
    export = write_export(tmp_path / "root")
    running = Running.started(export.parent, str(export), tintem=python.with_name("tintem"))
    with running.client() as client:
        told = client.post("/embed", files={"files": encoded(photo(0))}).json()
    assert len(told["data"][0]["embedding"]) == WIDTH
    running.ended()


def test_the_compose_file_fits_its_schema_and_names_commands_that_exist() -> None:
    tool = Path(sys.executable).parent / "check-jsonschema"
    path = DEPLOY / "compose.yaml"
    done = subprocess.run(
        [tool, "--builtin-schema", "vendor.compose-spec", path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(services) == {"database", "server", "deploy", "worker", "worker-gpu", "serve"}
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        program = service.get("command", "tintem").split()[0]
        assert (Path(sys.executable).parent / program).is_file()
        volumes = [volume.split(":")[0] for volume in service.get("volumes", [])]
        named = [volume for volume in volumes if not volume.startswith("$")]
        assert set(named) <= set(yaml.safe_load((DEPLOY / "compose.yaml").read_text())["volumes"])
    worker, server = services["worker"], services["server"]
    assert worker["command"] == f"prefect worker start --pool {POOL} --limit 1"
    assert worker["environment"]["PREFECT_API_URL"] == "http://server:4200/api"
    assert server["environment"]["PREFECT_SERVER_DATABASE_DRIVER"] == "postgresql+asyncpg"
    assert server["environment"]["PREFECT_SERVER_DATABASE_HOST"] in services
