"""Nights in processes of their own: killed, at once, through Prefect and the command line."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.config.load import parse_config
from flows.retraining.run import RetrainingResult, RetrainingRun
from storage.identity import file_digest
from storage.registry import current_version, history, roll_back
from storage.root import open_root
from tests.flows.retraining.test_run import LINE, device_reads
from tests.photos import photo
from tests.runs import write_config, write_teacher
from tests.system.test_resume import kill_when

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def add(settings: dict[str, Any], count: int, first: int) -> None:
    for i in range(first, first + count):
        photo(i).save(Path(settings["data"]["uri"]) / "disc" / f"photo-{i:04d}.png")


def hold(settings: dict[str, Any], *, force: bool = False, **nightly: Any) -> RetrainingResult:
    run = {**settings, "nightly": {"gates": [], **nightly}}
    return RetrainingRun(parse_config(run, "test"), force=force).run()


def line_of(ended: RetrainingResult, line: str = LINE) -> dict[str, Any]:
    assert ended.record is not None
    return ended.record["lines"][line]  # type: ignore[no-any-return]


_HOLD = """
import os, signal, sys
from flows.config.load import load_config
from flows.retraining import run
if sys.argv[2:] == ["die before promoting"]:
    run.promote_candidate = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
print(run.RetrainingRun(load_config(sys.argv[1])).run().outcome)
"""


def start(config: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(config), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_between_deciding_and_promoting_the_next_run_promotes_and_recomputes_nothing(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    config, root = write_config(tmp_path, settings), open_root(settings["root"])
    process = start(config, "die before promoting")
    process.communicate(timeout=300)
    assert process.returncode == -9
    assert current_version(root, LINE) is None
    (night,) = root.folders("nights")
    decided = json.loads(root.read(f"nights/{night}/record.json"))
    files = {p: f for p, f in root.facts().items() if not p.startswith(("manifests", "leases"))}

    process = start(config)
    assert process.communicate(timeout=300)[0].strip() == "promoted"
    assert device_reads(root) == decided["lines"][LINE]["student"]
    entry = current_version(root, LINE)
    assert entry is not None
    assert (entry.number, entry.model.night) == (1, night)
    kept = {p: f for p, f in root.facts().items() if p in files}
    assert kept == files


def seen(folder: Path, sign: str) -> bool:
    return any(folder.glob(sign))


def test_killed_in_every_stage_a_night_ends_as_if_it_never_was(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings["training"]["epochs"] = 12
    settings["runtime"]["checkpoint_seconds"] = 0
    whole = {**settings, "root": str(tmp_path / "whole")}
    assert hold(whole).outcome == "promoted"

    config, folder = write_config(tmp_path, settings), Path(settings["root"])
    for sign in (
        "caches/*/commits/*.json",
        "mappings/*/record.json",
        "students/*/checkpoints/*.pt",
        "evaluations/*/metrics.parquet",
        # All that comes between the file and the promotion is over in a moment.
        "leases/exports/*.json",
    ):
        process = start(config)
        assert kill_when(process, partial(seen, folder, sign)), sign
        assert current_version(open_root(folder), LINE) is None
    process = start(config)
    assert process.communicate(timeout=300)[0].strip() == "promoted"
    assert device_reads(open_root(folder)) == device_reads(open_root(whole["root"]))
    (entry,) = history(open_root(folder), LINE)
    student = f"students/{entry.model.student}/student.safetensors"
    assert (folder / student).read_bytes() == (Path(whole["root"]) / student).read_bytes()


def test_of_two_nights_at_once_one_works_and_the_other_finds_it_done(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    config, root = write_config(tmp_path, settings), open_root(settings["root"])
    processes = [start(config), start(config)]
    ended = sorted(process.communicate(timeout=600)[0].strip() for process in processes)
    assert ended == ["nothing new", "promoted"]
    assert [entry.number for entry in history(root, LINE)] == [1]


def test_one_failing_student_stops_no_other_and_has_its_turn_again(
    settings: dict[str, Any],
) -> None:
    students: list[dict[str, Any]] = [
        {"name": "diverging", "training.learning_rate": 1e30, "training.clip_norm": None},
        {"name": "unknown", "student.weights": "/no/such/file.safetensors"},
        {"name": "good"},
    ]
    ended = hold(settings, students=students)
    assert ended.outcome == "failed"
    assert len(ended.failures) == 2
    assert "promoted test-resnet-shapes-" in ended.says
    assert "unknown failed: student.weights: there is no file" in ended.says
    root = open_root(settings["root"])
    assert device_reads(root, "good-shapes")
    assert current_version(root, "diverging-shapes") is None

    students[0]["training.learning_rate"] = 3e-3
    del students[1]
    again = hold(settings, students=students)
    assert again.outcome == "promoted"
    assert line_of(again, "diverging-shapes")["outcome"] == "promoted"
    assert line_of(again, "good-shapes")["outcome"] == "nothing new"


def test_a_warm_start_goes_on_from_the_latest_in_the_same_space(settings: dict[str, Any]) -> None:
    settings["training"]["epochs"] = 20
    first = hold(settings)
    add(settings, 24, 300)
    root = Path(settings["root"])
    nights = {
        "warm": hold(settings, warm_start=True, gates=[_never_promoted()]),
        "cold": hold(settings, gates=[_never_promoted()]),
        "anew": hold(settings, keep_mapping=False, gates=[_never_promoted()]),
    }
    before = line_of(first)["student"]
    warm, cold, anew = (line_of(ended) for ended in nights.values())
    assert warm["warm_start"] == {"done": True, "why": ""}
    assert cold["warm_start"] == {"done": False, "why": "nightly.warm_start is off"}
    spec = json.loads((root / "students" / warm["student"] / "record.json").read_text())["spec"]
    assert spec["student"]["weights"] == file_digest(
        root / f"students/{before}/student.safetensors"
    )
    assert warm["mapping"]["kept"]
    assert not anew["mapping"]["kept"]
    mappings = [
        json.loads((root / "students" / line["student"] / "record.json").read_text())["spec"][
            "mapping"
        ]
        for line in (line_of(first), warm, cold, anew)
    ]
    assert mappings[0] == mappings[1] == mappings[2] != mappings[3]
    lines = {"first": line_of(first), "warm": warm, "cold": cold, "anew": anew}
    found = {name: embed(settings, line) for name, line in lines.items()}
    alike = {name: float(np.mean(np.sum(found["first"] * found[name], axis=1))) for name in nights}
    # The same photos, before and after: only with the same mapping do embeddings stay near.
    assert min(alike["warm"], alike["cold"]) > alike["anew"] + 0.05, alike


def embed(settings: dict[str, Any], line: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Embed some photos with an exported student: unit rows."""
    import onnxruntime

    model = Path(settings["root"]) / "exports" / line["export"] / "student.onnx"
    photos = sorted(Path(settings["data"]["uri"]).rglob("*.png"))[:30]
    pixels = np.stack(
        [np.asarray(Image.open(p).convert("RGB").resize((32, 32)), np.float32) for p in photos]
    )
    batch = {"pixels": pixels.transpose(0, 3, 1, 2) / 255}
    rows = onnxruntime.InferenceSession(model).run(None, batch)[0]
    unit: np.ndarray[Any, Any] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _never_promoted() -> dict[str, Any]:
    return {"metric": "student/test/pairwise_pearson", "minimum": 2.0}


def test_another_teacher_is_not_compared_with(settings: dict[str, Any], tmp_path: Path) -> None:
    hold(settings)
    write_teacher(tmp_path / "teacher.safetensors", seed=1)
    quiet = hold(settings)
    assert quiet.outcome == "nothing new"
    assert "other settings than then (teacher.weights) wait for --force" in quiet.says
    forced = hold(
        settings, force=True, gates=[{"metric": "student/test/cka_linear", "may_fall": 0.0}]
    )
    line = line_of(forced)
    assert forced.outcome == "promoted"
    assert not line["mapping"]["kept"]
    assert line["latest_metrics"] == {}
    (gate,) = line["gates"]
    assert gate["passed"] is None
    assert gate["why"] == "the latest learned from another teacher"


def test_other_splits_are_not_compared_with(settings: dict[str, Any]) -> None:
    hold(settings)
    settings["data"]["test_share"] = 0.5
    forced = hold(settings, force=True, warm_start=True,
                  gates=[{"metric": "student/test/cka_linear", "may_fall": 0.0}])  # fmt: skip
    line = line_of(forced)
    assert line["latest_metrics"] == {}
    assert "of tonight's test photos: the splits are others than then" in line["gates"][0]["why"]
    assert not line["warm_start"]["done"]


def test_labels_that_a_gate_needs_are_missed_before_any_work(
    settings: dict[str, Any], photo_folder: Any
) -> None:
    from tintem_core.errors import InputError

    settings["data"]["uri"] = str(photo_folder(40, name="flat"))
    with pytest.raises(
        InputError, match=r"gates\[0\]: .student/test/knn. is measured over the .*have labels"
    ):
        hold(settings, gates=[{"metric": "student/test/knn", "minimum": 0.5}])
    assert not open_root(settings["root"]).exists("caches")


def test_a_gate_on_what_chance_would_pass_is_refused_before_any_work(
    settings: dict[str, Any], photo_folder: Any
) -> None:
    from tintem_core.errors import InputError

    settings["data"]["uri"] = str(photo_folder(40, name="few"))
    with pytest.raises(InputError, match=r"measured over 21 photos or more.* and test has \d+"):
        hold(settings, gates=[{"metric": "student/test/neighbour_overlap_10", "minimum": 0.8}])
    assert not open_root(settings["root"]).exists("caches")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of an S3 protocol server, and the environment that leads there."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    request = urllib.request.Request(f"http://{host}:{port}/nights", method="PUT")
    urllib.request.urlopen(request).close()
    yield "s3://nights/here"
    server.stop()


def test_nights_work_on_an_object_store_warm_starts_too(
    settings: dict[str, Any], bucket: str
) -> None:
    settings["root"] = bucket
    assert hold(settings).outcome == "promoted"
    assert hold(settings).outcome == "nothing new"
    add(settings, 24, 300)
    second = hold(settings, warm_start=True)
    assert second.outcome == "promoted"
    assert line_of(second)["warm_start"]["done"]
    root = open_root(bucket)
    assert device_reads(root) == line_of(second)["student"]
    roll_back(root, LINE)
    assert device_reads(root) != line_of(second)["student"]
    assert "was rolled back on" in hold(settings, warm_start=True).says
