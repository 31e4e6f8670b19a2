"""Several processes that train together, through `torchrun` and gloo on the CPU."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flows.config.load import load_config
from flows.reporting.base import reporting_to
from flows.stages.pipeline import Pipeline
from tests.runs import Notes, write_config
from tintem_core.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def launch(config: Path, processes: int = 2) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={processes}", "-m", "flows.torchrun", str(config),
    ]  # fmt: skip
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE)


def kill_all(config: Path) -> None:
    """SIGKILL the launcher and its workers, which have sessions of their own: all name the file."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(config).encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)


def finish(config: Path, processes: int = 2) -> None:
    process = launch(config, processes)
    _, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors.decode()


def history(root: Path) -> pl.DataFrame:
    (path,) = root.glob("students/*/history.parquet")
    return pl.read_parquet(path)


def record(root: Path) -> dict[str, Any]:
    (path,) = root.glob("students/*/record.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.fixture
def shared(settings: dict[str, Any]) -> dict[str, Any]:
    settings["student"] = {"model": "test_vit", "image_size": 32}
    settings["training"] |= {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3}
    settings["mapping"] = {"width": 32, "fit": "joint", "objective": "sne"}
    return settings


@pytest.mark.parametrize("model", ["test_vit", "test_resnet"])
def test_two_processes_follow_the_loss_curve_of_one(
    model: str, shared: dict[str, Any], tmp_path: Path
) -> None:
    """The joint SNE term and batch norm look at the images of both processes."""
    shared["student"]["model"] = model
    # Sums in another order differ in their last bits, and every step makes more of them: by less
    # where steps are small. Processes that are blind to each other would differ from the first on.
    shared["training"]["learning_rate"] = 2e-4
    curves = []
    for processes in (1, 2):
        shared["root"] = str(tmp_path / f"by-{processes}")
        finish(write_config(tmp_path, shared, f"{processes}.yaml"), processes)
        assert record(Path(shared["root"]))["processes"] == processes
        curves.append(history(Path(shared["root"]))["loss"].to_list())
    assert curves[1] == pytest.approx(curves[0], rel=1e-5)
    assert curves[0][-1] < curves[0][0]
    # What was trained together is found by a run on its own.
    assert Pipeline(load_config(tmp_path / "2.yaml")).trained.reused


def test_processes_killed_together_go_on_bit_for_bit(
    shared: dict[str, Any], tmp_path: Path
) -> None:
    """Three of them: a sum of two gradients rounds the same in either order."""
    shared["student"]["options"] = {"drop_path_rate": 0.3}
    shared["training"].update(
        epochs=30, batch_size=9, ema_decay=0.9, accumulation=2, precision="bfloat16", clip_norm=1.0
    )
    shared["runtime"]["checkpoint_seconds"] = 0
    shared["root"] = str(tmp_path / "whole")
    finish(write_config(tmp_path, shared, "whole.yaml"), processes=3)
    root = tmp_path / "killed"
    shared["root"] = str(root)
    config = write_config(tmp_path, shared)
    for wanted in (5, 40):
        process = launch(config, processes=3)
        deadline = time.monotonic() + 200
        while step_of(root) < wanted and time.monotonic() < deadline:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
        kill_all(config)
        process.communicate()
    finish(config, processes=3)
    assert record(root)["resumed_at_step"] >= 40
    (first,) = (tmp_path / "whole").glob("students/*/student.safetensors")
    (second,) = root.glob("students/*/student.safetensors")
    assert first.read_bytes() == second.read_bytes()


def test_weights_chosen_by_two_processes_survive_a_kill(
    shared: dict[str, Any], tmp_path: Path
) -> None:
    shared["training"].update(
        epochs=20, select="best", validate_every=2, validation_share=0.25, select_knn=5
    )
    shared["runtime"] |= {"checkpoint_seconds": 0, "tensorboard": True}
    scores = []
    for processes in (1, 2):
        shared["root"] = str(tmp_path / f"by-{processes}")
        finish(write_config(tmp_path, shared, f"{processes}.yaml"), processes)
        scores.append(history(Path(shared["root"]))["validation"].drop_nulls().to_list())
    assert len(scores[0]) == len(scores[1]) == 10
    # Rounding may turn one vote or another.
    assert np.mean(np.abs(np.subtract(*scores))) < 0.05
    root = tmp_path / "killed"
    shared["root"] = str(root)
    config = write_config(tmp_path, shared)
    process = launch(config)
    deadline = time.monotonic() + 200
    while step_of(root) < 20 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    kill_all(config)
    process.communicate()
    finish(config)
    assert record(root)["resumed_at_step"] >= 20
    assert record(root)["selected"] == record(tmp_path / "by-2")["selected"]
    assert history(root).equals(history(tmp_path / "by-2"))
    # One of the processes writes, and what the killed one wrote after its last checkpoint is gone.
    (board,) = root.glob("tensorboard/*")
    events = EventAccumulator(str(board))
    events.Reload()
    losses = [event.value for event in events.Scalars("training/loss")]
    assert len(losses) == record(root)["steps"]
    means = np.reshape(losses, (20, -1)).mean(axis=1)
    assert means == pytest.approx(history(root)["loss"].to_list(), rel=1e-5)
    (first,) = (tmp_path / "by-2").glob("students/*/student.safetensors")
    (second,) = root.glob("students/*/student.safetensors")
    assert first.read_bytes() == second.read_bytes()


def step_of(root: Path) -> int:
    try:
        (path,) = root.glob("students/*/progress.json")
        return int(json.loads(path.read_text())["step"])
    except (ValueError, OSError):
        return 0


def test_a_batch_that_cannot_be_shared_out_is_refused(
    shared: dict[str, Any], tmp_path: Path
) -> None:
    shared["training"]["batch_size"] = 9
    process = launch(write_config(tmp_path, shared))
    _, errors = process.communicate(timeout=200)
    assert process.returncode != 0
    assert b"2 processes cannot share a batch of 9 images evenly" in errors


def test_a_run_trains_in_several_processes_by_itself(
    shared: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGLEVEL", "INFO")
    shared["runtime"]["processes"] = 2
    notes = Notes()
    with reporting_to(notes):
        run = Pipeline(load_config(write_config(tmp_path, shared)))
        trained = run.trained
        assert not trained.reused
        assert trained.record["processes"] == 2
        assert notes.work["Train test_vit"] == trained.record["steps"]
        assert any("truth test" in note for note in notes.notes)
        # What torchrun prints is in the log of the run.
        assert any("nproc_per_node" in note for note in notes.notes)
        assert Pipeline(run.config).trained.reused
        assert run.exported.record["student"] == trained.id


def test_a_mistake_that_the_processes_find_is_told_as_one(
    shared: dict[str, Any], tmp_path: Path
) -> None:
    shared["runtime"]["processes"] = 2
    shared["training"]["batch_size"] = 9
    with pytest.raises(InputError, match="2 processes cannot share a batch of 9 images evenly"):
        _ = Pipeline(load_config(write_config(tmp_path, shared))).trained


def test_the_processes_end_with_the_run_that_started_them(
    shared: dict[str, Any], tmp_path: Path
) -> None:
    shared["runtime"].update(processes=2, checkpoint_seconds=0)
    shared["training"]["epochs"] = 500
    root = Path(shared["root"])
    code = (
        "import sys; from flows.config.load import load_config; "
        "from flows.stages.pipeline import Pipeline; Pipeline(load_config(sys.argv[1])).trained"
    )
    config = write_config(tmp_path, shared)
    run = subprocess.Popen([sys.executable, "-c", code, str(config)], env=ENVIRONMENT)
    deadline = time.monotonic() + 200
    while step_of(root) < 5 and time.monotonic() < deadline:
        assert run.poll() is None
        time.sleep(0.02)
    started = psutil.Process(run.pid).children(recursive=True)
    assert len(started) >= 3
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive
