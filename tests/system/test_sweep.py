"""Whole sweeps through the command line, a real Prefect server and real processes."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.experiments.leaderboard import leaderboard
from storage.root import open_root
from tests.runs import write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TINTEM = str(Path(sys.executable).parent / "tintem")


def start(config: Path, home: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_DATA_HOME": str(home)}
    return subprocess.Popen(
        [TINTEM, "sweep", str(config), *options], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def sweep(config: Path, home: Path, *options: str) -> tuple[int, str, str]:
    """Run to the end; return the exit code and what was printed."""
    process = start(config, home, *options)
    printed, errors = process.communicate(timeout=600)
    return process.returncode, printed, errors


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, "the sweep ended before"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def students(root: Path) -> dict[str, bytes]:
    """Return the weights of every finished student, by its id."""
    return {p.parent.name: p.read_bytes() for p in root.glob("students/*/student.safetensors")}


def in_training(root: Path) -> list[str]:
    return [path.parent.name for path in root.glob("students/*/progress.json")]


def processes(config: Path) -> list[psutil.Process]:
    """The students' processes: children of the sweep of a config."""
    found = []
    for parent in psutil.process_iter(["cmdline"]):
        if str(config) in (parent.info["cmdline"] or []):
            # A child may be one that lives for a moment only.
            for child in _children(parent):
                with contextlib.suppress(psutil.Error):
                    if "flows.execution.students" in child.cmdline():
                        found.append(child)
    return found


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.NoSuchProcess:
        return []


def test_one_student_fails_alone_and_is_repeated_alone(
    settings: dict[str, Any], tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    settings["evaluation"]["ood"] = [
        {"name": "strange", "uri": str(photo_folder(8, name="strange", first=500))}
    ]
    settings["sweep"] = {
        "list": [
            {"name": "good"},
            {"name": "narrow", "mapping.width": 16},
            {
                "name": "diverges",
                "training.objective": "proteus",
                "training.learning_rate": 1e30,
            },
        ],
    }
    config, root = write_config(tmp_path, settings), Path(settings["root"])
    code, printed, errors = sweep(config, tmp_path)
    assert code == 1
    assert "1 of 3 students failed: diverges (the loss is nan" in errors
    assert "AUROC strange" in printed
    assert "failed: the loss is nan" in printed

    found = leaderboard(open_root(root))
    (group,) = found.groups
    assert set(group.table["name"]) == {"good", "narrow"}
    assert group.table["status"].to_list() == ["done", "done"]
    assert [thing["name"] for thing in found.unfinished] == ["diverges"]
    (remembered,) = root.glob("sweeps/*")
    assert (remembered / "faithfulness-against-size.png").read_bytes().startswith(b"\x89PNG")
    assert (remembered / "leaderboard.parquet").is_file()
    with sqlite3.connect(tmp_path / "tintem" / "prefect" / "prefect.db") as database:
        tasks = dict(database.execute("select name, state_type from task_run"))
        flows = dict(database.execute("select name, state_type from flow_run"))
        artifacts = {key for (key,) in database.execute("select key from artifact")}
    assert {name: tasks[name] for name in ("good", "narrow", "diverges")} == {
        "good": "COMPLETED", "narrow": "COMPLETED", "diverges": "FAILED",
    }  # fmt: skip
    assert flows["sweep shapes from test_efficientnet"] == "FAILED"
    for key in ("leaderboard", "faithfulness-against-size"):
        assert [artifact for artifact in artifacts if (artifact or "").endswith(f"-{key}")], key

    before = {path: path.stat().st_mtime_ns for path in root.glob("students/*/student.safetensors")}
    code, printed, errors = sweep(config, tmp_path, "--only", "narrow")
    assert code == 0, errors
    assert "Train" not in printed
    # By what only the failed one would have been measured.
    settings["sweep"]["metric"] = "head/test/cka_linear"
    config = write_config(tmp_path, settings)
    code, printed, errors = sweep(config, tmp_path)
    assert code == 1
    assert "1 of 3 students failed: diverges" in errors
    assert "Train" not in printed
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.timeout(1800)
def test_a_sweep_killed_and_repeated_ends_with_the_same_students(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    # Both students are in training before the first has ended.
    settings["training"]["epochs"] = 300
    settings["runtime"]["checkpoint_seconds"] = 0
    settings["sweep"] = {"at_once": 2, "seeds": [0, 1, 2]}
    whole = write_config(tmp_path, {**settings, "root": str(tmp_path / "whole")}, "whole.yaml")
    code, _, errors = sweep(whole, tmp_path)
    assert code == 0, errors
    wanted = students(tmp_path / "whole")
    assert len(wanted) == 3

    root = tmp_path / "killed"
    config = write_config(tmp_path, {**settings, "root": str(root)})
    process = start(config, tmp_path)
    wait_until(lambda: len(in_training(root)) == 2, process)
    begun = processes(config)
    assert len(begun) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    # Students do not outlive their sweep.
    assert psutil.wait_procs(begun, timeout=30)[1] == []
    assert students(root) == {}

    # One student killed: the others go on, and the next sweep finishes it.
    process = start(config, tmp_path)
    wait_until(lambda: len(processes(config)) == 2, process)
    processes(config)[0].kill()
    process.communicate(timeout=600)
    assert process.returncode == 1
    assert len(students(root)) == 2
    assert "killed by SIGKILL" in leaderboard(open_root(root)).unfinished[0]["status"]
    code, _, errors = sweep(config, tmp_path)
    assert code == 0, errors
    assert students(root) == wanted
    assert leaderboard(open_root(root)).unfinished == ()
    # A student that was finished is not trained again, one that had begun goes on.
    resumed = [
        json.loads(path.read_text())["resumed_at_step"]
        for path in root.glob("students/*/record.json")
    ]
    assert sum(step > 0 for step in resumed) >= 1
