"""Real processes, real SIGKILL: what was done stays done, and the result is the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import load_config
from flows.stages.pipeline import Pipeline
from tests.runs import write_config

# Several processes one after the other, each with minutes of its own on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

_RUN = """
import sys
from flows.config.load import load_config
from flows.stages.pipeline import Pipeline
getattr(Pipeline(load_config(sys.argv[1])), sys.argv[2])
"""


def start(config: Path, stage: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, str(config), stage], env=environment, stderr=subprocess.PIPE
    )


def finish(config: Path, stage: str) -> None:
    process = start(config, stage)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()


def kill_when(process: subprocess.Popen[Any], reached: Callable[[], bool]) -> bool:
    """SIGKILL as soon as something is seen on disk; False if the process ended before."""
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if reached():
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.002)
    assert process.poll() == 0, process.stderr and process.stderr.read()
    return False


def shard_files(root: Path) -> dict[str, int]:
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns
        for path in root.glob("caches/*/global/c/**/*")
        if path.is_file()
    }


def test_interrupted_extraction_recomputes_only_missing_shards(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings["cache"]["rows_per_shard"] = 1
    settings["views"]["count"] = 16
    config, root = write_config(tmp_path, settings), Path(settings["root"])

    def commits() -> list[Path]:
        return list(root.glob("caches/*light*/commits/*.json"))

    assert kill_when(start(config, "extracted"), lambda: len(commits()) >= 3)
    done = len(commits())
    before = shard_files(root)
    finish(config, "extracted")
    total = len(commits())
    after = shard_files(root)
    kept = [path for path, changed in before.items() if after[path] == changed]
    assert done < total
    assert len(kept) >= done

    other = {**settings, "root": str(tmp_path / "whole")}
    finish(whole := write_config(tmp_path, other, "whole.yaml"), "extracted")
    for first, second in zip(_values(config), _values(whole), strict=True):
        assert (first == second).all()


def _values(config: Path) -> list[Any]:
    from storage.cache import FeatureCache

    run = Pipeline(load_config(config))
    caches = [run.extracted.training_cache, *run.extracted.evaluation_caches.values()]
    keys = run.indexed.data.keys("train")
    return [FeatureCache.open(run.root, cache).reader(keys).all(view=0) for cache in caches]


def student_bytes(root: Path) -> bytes:
    (path,) = root.glob("students/*/student.safetensors")
    return path.read_bytes()


def curve_bytes(root: Path) -> bytes:
    (path,) = root.glob("students/*/history.parquet")
    return path.read_bytes()


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_training_killed_again_and_again_gives_the_same_weights(
    select: str, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings["training"].update(epochs=60, select=select, validate_every=3, validation_share=0.25)
    settings["runtime"]["checkpoint_seconds"] = 0
    whole = write_config(tmp_path, settings, "whole.yaml")
    finish(whole, "trained")

    settings["root"] = str(tmp_path / "killed")
    config, root = write_config(tmp_path, settings), tmp_path / "killed"

    def step() -> int:
        try:
            (path,) = root.glob("students/*/progress.json")
            return int(json.loads(path.read_text())["step"])
        except (ValueError, OSError):
            return 0

    kills = 0
    for wanted in (3, 17, 31):
        kills += kill_when(start(config, "trained"), lambda wanted=wanted: step() >= wanted)  # type: ignore[misc]
    assert kills == 3
    assert not list(root.glob("students/*/student.safetensors"))
    finish(config, "trained")
    (record,) = root.glob("students/*/record.json")
    assert json.loads(record.read_text())["resumed_at_step"] >= 31
    assert student_bytes(root) == student_bytes(Path(load_config(whole).root))
    assert curve_bytes(root) == curve_bytes(Path(load_config(whole).root))
    assert not list(root.glob("students/*/checkpoints/*"))


def test_a_torn_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings["training"]["epochs"] = 30
    settings["runtime"]["checkpoint_seconds"] = 0
    config, root = write_config(tmp_path, settings), Path(settings["root"])

    def checkpoints() -> list[Path]:
        return sorted(root.glob("students/*/checkpoints/*.pt"))

    assert kill_when(start(config, "trained"), lambda: len(checkpoints()) >= 2)
    newest = checkpoints()[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    finish(config, "trained")
    student = student_bytes(root)
    settings["root"] = str(tmp_path / "whole")
    finish(write_config(tmp_path, settings, "whole.yaml"), "trained")
    assert student == student_bytes(tmp_path / "whole")


def test_the_command_killed_at_many_moments_still_ends_with_the_same_model(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings["training"]["epochs"] = 12
    settings["runtime"]["checkpoint_seconds"] = 0
    tintem = [str(Path(sys.executable).parent / "tintem"), "run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_DATA_HOME": str(tmp_path / "home")}
    whole = write_config(tmp_path, settings, "whole.yaml")
    subprocess.run([*tintem, str(whole)], check=True, env=environment, timeout=280)

    settings["root"] = str(tmp_path / "killed")
    config = write_config(tmp_path, settings)
    for seconds in (5, 9, 11, 13, 15):
        process = subprocess.Popen([*tintem, str(config)], env=environment)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    subprocess.run([*tintem, str(config)], check=True, env=environment, timeout=280)
    assert student_bytes(tmp_path / "killed") == student_bytes(Path(load_config(whole).root))
