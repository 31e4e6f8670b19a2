"""The command line through a real Prefect server: what it prints, records and leaves behind."""

import json
import sqlite3
from pathlib import Path

import psutil

from tests.flows.cli.test_bad_input import tintem


def test_a_stage_alone_makes_its_part_and_a_run_the_rest_with_numbers_and_a_record_in_prefect(
    config_file: Path, tmp_path: Path
) -> None:
    done = tintem("map", str(config_file), home=tmp_path)
    assert done.returncode == 0, done.stderr
    status = json.loads(tintem("status", str(config_file), "--json", home=tmp_path).stdout)
    assert len(status["caches"]) == 2
    assert len(status["mappings"]) == 1
    assert status["students"] == []
    assert status["mappings"][0]["id"] in done.stdout

    done = tintem("run", str(config_file), home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    finished = done.stdout
    for wanted in ("teacher", "student", "pairwise cosines", "kNN", "student.onnx", "report.html"):
        assert wanted in finished
    assert f"tintem status {config_file}" in finished.replace("\n", "")

    with sqlite3.connect(tmp_path / "tintem" / "prefect" / "prefect.db") as database:
        runs = dict(database.execute("select name, state_type from flow_run"))
    assert runs["distill test_resnet from test_efficientnet"] == "COMPLETED"
    assert {name.split()[0] for name in runs} == {
        "distill", "index", "extract", "map", "train", "evaluate", "export",
    }  # fmt: skip
    assert set(runs.values()) == {"COMPLETED"}

    with sqlite3.connect(tmp_path / "tintem" / "prefect" / "prefect.db") as database:
        (shown,) = database.execute("select data from artifact where key like '%report'").fetchone()
    assert "Is it faithful?" in shown
    assert "Does it find the same photos?" in shown
    assert "data:image/jpeg;base64," in shown

    status = json.loads(tintem("status", str(config_file), "--json", home=tmp_path).stdout)
    assert {kind: len(found) for kind, found in status.items()} == {
        "caches": 3, "mappings": 1, "students": 1, "evaluations": 1, "exports": 1, "latest": 0,
    }  # fmt: skip
    assert all(thing["progress"] == 1 for found in status.values() for thing in found)
    table = tintem("status", str(config_file), home=tmp_path).stdout
    # Piped, no id is broken into two lines.
    assert all(thing["id"] in table for found in status.values() for thing in found)
    onnx = next(line.split()[-1] for line in table.splitlines() if line.startswith("  model"))
    assert Path(onnx).is_file()
    board = tintem("leaderboard", str(config_file), home=tmp_path).stdout
    assert onnx in board

    again = tintem("run", str(config_file), home=tmp_path)
    assert "Nothing to do: test-resnet-" in again.stdout
    assert finished[finished.index("ONNX Runtime gives") :].startswith(
        again.stdout[again.stdout.index("ONNX Runtime gives") :]
    )
    with sqlite3.connect(tmp_path / "tintem" / "prefect" / "prefect.db") as database:
        assert dict(database.execute("select name, state_type from flow_run")) == runs

    left = [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(p.info["cmdline"])]
    assert not left
