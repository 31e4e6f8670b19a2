"""Nights with a teacher and a student that are no timm models."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.data import code
from flows.retraining.changes import settings_of
from flows.retraining.run import RetrainingResult, RetrainingRun
from tests.runs import write_onnx

GATE = {"metric": "student/test/pairwise_pearson", "may_fall": 0.9}
STUDENT = """
from torch import nn

def student():
    return nn.Sequential(
        nn.Conv2d(3, {width}, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear({width}, 32),
    )
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Each config begins as in a process of its own.
    monkeypatch.setattr(code, "_imported", {})
    write_onnx(tmp_path / "t.onnx")
    (tmp_path / "night_nets.py").write_text(STUDENT.format(width=16))
    return tmp_path


def run(settings: dict[str, Any], folder: Path, **changes: Any) -> RunConfig:
    changed = copy.deepcopy(settings)
    changed["teacher"] = {
        "onnx": "t.onnx", "image_size": 64, "mean": [0.5] * 3, "std": [0.25] * 3,
    }  # fmt: skip
    changed["student"] = {"python": "night_nets:student", "image_size": 32}
    changed["nightly"] = {"gates": [], "growth": 0.2, "drift": 0.9}
    changed.update(changes)
    (folder / "run.yaml").write_text(yaml.safe_dump(changed))
    return load_config(folder / "run.yaml")


def hold(config: RunConfig, *, force: bool = False) -> RetrainingResult:
    return RetrainingRun(config, force=force).run()


def lines(ended: RetrainingResult) -> list[dict[str, Any]]:
    assert ended.record is not None
    return list(ended.record["lines"].values())


def test_what_a_model_is_made_of_is_noted_and_its_place_is_not(
    settings: dict[str, Any], folder: Path
) -> None:
    before = settings_of(run(settings, folder))
    assert str(folder) not in str({k: before[k] for k in ("teacher", "student")})
    assert before["student"]["python"] == "night_nets:student"
    write_onnx(folder / "t.onnx", seed=1)
    (folder / "night_nets.py").write_text(STUDENT.format(width=24))
    code._imported.clear()
    after = settings_of(run(settings, folder))
    assert before["teacher"]["onnx"] != after["teacher"]["onnx"]
    assert before["student"]["code"] != after["student"]["code"]


def test_what_is_noted_of_timm_models_stays_as_it_was(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    found = settings_of(load_config(tmp_path / "run.yaml"))
    assert sorted(found["teacher"]) == ["image_size", "model", "precision", "weights"]
    assert sorted(found["student"]) == [
        "image_size", "model", "options", "partial_weights", "pretrained", "stages", "weights",
    ]  # fmt: skip


@pytest.mark.slow
def test_nights_embed_what_is_new_and_compare_as_long_as_the_code_is_the_same(
    settings: dict[str, Any],
    folder: Path,
    photo_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (line,) = lines(hold(run(settings, folder)))
    assert line["outcome"] == "promoted"

    photo_folder(24, classes=("disc", "plain"), first=300)
    warm = {"gates": [GATE], "growth": 0.2, "drift": 0.9, "warm_start": True}
    (line,) = lines(hold(run(settings, folder, nightly=warm)))
    assert line["latest_metrics"], "the latest is measured on the same photos"
    assert line["warm_start"] == {"done": True, "why": ""}

    (folder / "night_nets.py").write_text(STUDENT.format(width=24))
    code._imported.clear()
    monkeypatch.delitem(sys.modules, "night_nets")
    quiet = hold(run(settings, folder))
    assert "other settings than then (student.code) wait for --force" in quiet.says
    (line,) = lines(hold(run(settings, folder, nightly=warm), force=True))
    assert line["latest_metrics"] == {}
    assert (
        line["warm_start"]["why"]
        == line["gates"][0]["why"]
        == ("the latest was another function, or other code")
    )
