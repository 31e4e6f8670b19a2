"""Nights through Prefect and the command line: what is said, recorded, and left in force."""

import json
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import parse_config
from flows.stages.pipeline import Pipeline
from storage.root import open_root
from tests.flows.cli.test_bad_input import tintem
from tests.flows.retraining.test_nightly import add, hold, line_of
from tests.flows.retraining.test_run import LINE, device_reads
from tests.runs import write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NEVER = {"metric": "student/test/pairwise_pearson", "minimum": 2.0}


@pytest.fixture
def told(tmp_path: Path, settings: dict[str, Any]) -> Any:
    def run(*arguments: str, **nightly: Any) -> subprocess.CompletedProcess[str]:
        config = write_config(tmp_path, {**settings, "nightly": {"gates": [], **nightly}})
        command, *rest = arguments
        return tintem(command, str(config), *rest, home=tmp_path)

    return run


def test_the_command_says_what_happened_and_prefect_keeps_it(
    told: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    first, quiet = told("nightly"), told("nightly")
    assert first.returncode == quiet.returncode == 0, first.stderr + quiet.stderr
    assert first.stderr == quiet.stderr == ""
    assert "Promoted: test-resnet-shapes-" in first.stdout
    assert "latest/test-resnet-shapes.json (entry 1)" in first.stdout
    assert "Nothing new: the latest knows all 48 photos" in quiet.stdout

    add(settings, 24, 300)
    kept = told("nightly", gates=[NEVER])
    assert kept.returncode == 0, kept.stderr
    assert "Kept: the latest, test-resnet-shapes-" in kept.stdout
    assert "not passed" in kept.stdout

    refused = told("rollback")
    assert refused.returncode == 2
    assert "nothing before it to go back to" in refused.stderr
    assert told("nightly").returncode == 0
    returned = told("rollback")
    assert returned.returncode == 0
    assert "returned from" in returned.stdout
    entries = json.loads(told("latest", "--json").stdout)[LINE]
    assert [entry["action"] for entry in entries] == ["promoted", "promoted", "rolled back"]
    (in_force,) = json.loads(told("status", "--json").stdout)["latest"]
    assert (in_force["id"], in_force["progress"]) == (LINE, 1.0)
    assert in_force["metrics"]["student"] == entries[-1]["model"]["student"]

    with sqlite3.connect(tmp_path / "tintem" / "prefect" / "prefect.db") as database:
        states = database.execute(
            "select r.state_name, r.state_type, s.message from flow_run r "
            "join flow_run_state s on s.id = r.state_id where r.name = 'nightly shapes' "
            "order by r.start_time"
        ).fetchall()
        keys = {key for (key,) in database.execute("select distinct key from artifact")}
    assert [name for name, _, _ in states] == ["Promoted", "Nothing new", "Kept", "Promoted"]
    assert {kind for _, kind, _ in states} == {"COMPLETED"}
    assert "wanted at least 2" in states[2][2]
    assert {f"shapes-{what}" for what in ("night", "gates", "strangest-photos")} <= keys


def test_a_student_of_a_sweep_comes_into_force_by_its_id(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["sweep"] = {"list": [{"name": "longer", "training.epochs": 5}]}
    settings["nightly"] = {"gates": [{**NEVER, "may_fall": 0.02}]}
    config = str(write_config(tmp_path, settings))
    swept = tintem("sweep", config, home=tmp_path)
    assert swept.returncode == 0, swept.stderr
    assert f"tintem promote {config} ID" in swept.stdout
    (student,) = json.loads(tintem("status", config, "--json", home=tmp_path).stdout)["students"]
    refused = tintem("promote", config, student["id"], home=tmp_path)
    assert refused.returncode == 1
    assert "wanted at least 2 (" in refused.stderr
    assert "does not apply" in refused.stdout
    forced = tintem("promote", config, student["id"], "--force", "a trial", home=tmp_path)
    assert forced.returncode == 0, forced.stderr
    assert "differs from it in training.epochs." in forced.stdout
    again = tintem("promote", config, student["id"], home=tmp_path)
    assert (again.returncode, again.stdout.count("in force already")) == (0, 1)
    (entry,) = json.loads(tintem("latest", config, "--json", home=tmp_path).stdout)[LINE]
    assert entry["why"].startswith("chosen by hand: a trial (although ")
    assert device_reads(open_root(settings["root"])) == student["id"]
    assert tintem("promote", config, home=tmp_path).returncode == 2


def test_a_failed_student_fails_the_command_after_the_others_had_their_turn(
    told: Any, settings: dict[str, Any]
) -> None:
    done = told(
        "nightly",
        students=[{"name": "unknown", "student.weights": "/no/file.pth"}, {"name": "good"}],
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "unknown failed: student.weights: there is no file /no/file.pth" in done.stderr
    assert device_reads(open_root(settings["root"]), "good-shapes")


def test_the_night_in_prefect_is_the_night_in_plain_python(
    told: Any, settings: dict[str, Any]
) -> None:
    assert told("nightly").returncode == 0
    student = device_reads(open_root(settings["root"]))
    plain = {**settings, "root": settings["root"] + "-plain"}
    assert line_of(hold(plain))["student"] == student
    assert Pipeline(parse_config(plain, "test")).trained.id == student
