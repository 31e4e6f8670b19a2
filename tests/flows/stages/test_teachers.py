"""Teachers and students beyond timm, from the photos to the exported model."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.data.features import evaluation_latents
from flows.planning.plan import plan
from flows.reporting.base import reporting_to
from flows.stages.models import load_teacher
from flows.stages.pipeline import Pipeline
from flows.stages.preflight import preflight
from storage.cache import FeatureCache
from tests.runs import Notes, write_onnx
from tintem_core.errors import InputError

TEACHER = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 16, stride=16)
        self.mix = nn.Linear(48, 48)

    def forward(self, pixels):
        tokens = self.patches((pixels - 0.45) / 0.225).flatten(2).transpose(1, 2)
        return self.mix(tokens.mean(1).tanh()), tokens

def teacher():
    torch.manual_seed(7)
    return Net()
"""
STUDENT = """
from torch import nn

def student(width=16):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Dropout(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 32),
    )
"""


def run(settings: dict[str, Any], folder: Path, **changes: Any) -> RunConfig:
    """Return the run, as its file in a folder says it."""
    changed = copy.deepcopy(settings)
    changed.update(changes)
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(changed))
    return load_config(file)


def finish(config: RunConfig) -> tuple[Pipeline, Notes]:
    pipeline, notes = Pipeline(config), Notes()
    with reporting_to(notes):
        assert pipeline.exported
    return pipeline, notes


def latents(config: RunConfig) -> np.ndarray[Any, Any]:
    done = Pipeline(config)
    return evaluation_latents(done.root, done.extracted, done.indexed.data, None)


def cosines(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one * other).sum(1) / norms)


def export_teacher(config: RunConfig, path: Path) -> dict[str, Any]:
    """Write the run's timm teacher as ONNX without its normalisation; return its settings."""
    teacher = load_teacher(config.teacher, "cpu")
    program = torch.onnx.export(
        teacher.backbone.model,
        (torch.zeros(2, 3, 64, 64),),
        input_names=["pixels"],
        output_names=["embedding"],
        dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(path))
    return {"onnx": path.name, "image_size": 64, **teacher.backbone.normalisation}


@pytest.mark.slow
def test_a_timm_model_as_onnx_gives_the_same_cache_as_itself(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    timm = run(settings, tmp_path)
    onnx = run(settings, tmp_path, teacher=export_teacher(timm, tmp_path / "t.onnx"))
    assert cosines(latents(timm), latents(onnx)).min() > 0.9999
    done, _ = finish(onnx)
    teachers = [load_teacher(config.teacher, "cpu") for config in (timm, onnx)]
    # The exporter folds batch normalisation into the weights before it.
    assert done.exported.record["teacher_parameters"] == pytest.approx(
        teachers[0].parameters, rel=0.05
    )
    card = (Path(done.exported.location) / "card.md").read_text()
    assert "distilled from t.onnx" in card
    again, notes = finish(run(settings, tmp_path, teacher={**_of(onnx), "batch_size": 3}))
    assert again.exported.reused
    assert not any("Extract" in title for title in notes.work)


def _of(config: RunConfig) -> dict[str, Any]:
    return config.teacher.model_dump(mode="json", exclude_unset=True)


def test_an_onnx_file_is_known_by_its_bytes_and_those_beside_it(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    write_onnx(tmp_path / "t.onnx", external=True)
    teacher = {"onnx": "t.onnx", "image_size": 64, "mean": [0.5] * 3, "std": [0.25] * 3}
    config = run(settings, tmp_path, teacher=teacher)
    before = load_teacher(config.teacher, "cpu")
    for name in ("t.onnx", "t.onnx.data"):
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / "moved" / name).write_bytes((tmp_path / name).read_bytes())
    moved = run(settings, tmp_path, teacher={**teacher, "onnx": "moved/t.onnx"})
    assert load_teacher(moved.teacher, "cpu").identity() == before.identity()
    data = bytearray((tmp_path / "t.onnx.data").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "t.onnx.data").write_bytes(data)
    assert load_teacher(config.teacher, "cpu").identity() != before.identity()
    (tmp_path / "t.onnx.data").unlink()
    with pytest.raises(InputError, match=r"t\.onnx keeps weights in t\.onnx\.data, which is not"):
        load_teacher(config.teacher, "cpu")


def python_run(settings: dict[str, Any], folder: Path, **changes: Any) -> RunConfig:
    name = f"models_{folder.name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(TEACHER + STUDENT)
    teacher = {"python": f"{name}:teacher", "image_size": 64}
    student = {"python": f"{name}:student", "image_size": 32, "options": {"width": 24}}
    return run(settings, folder, **{"teacher": teacher, "student": student, **changes})


def test_a_function_of_ones_own_teaches_and_another_learns(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    config = python_run(settings, tmp_path)
    preflight(config)
    done, _ = finish(config)
    name = config.teacher.name.partition(":")[0]
    spec = done.trained.record["spec"]["student"]
    assert spec["python"] == f"{name}:student"
    assert len(spec["code"]) == len(spec["weights"]) == 64
    assert str(tmp_path) not in json.dumps(done.trained.record["spec"])
    assert done.exported.record["teacher_parameters"] == 3 * 16 * 16 * 48 + 48 + 48 * 48 + 48
    card = (Path(done.exported.location) / "card.md").read_text()
    assert f"{name}:student, distilled from {name}:teacher" in card
    again, _ = finish(config)
    assert again.exported.reused


def test_a_plan_of_a_run_with_functions_says_what_is_there(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    config = python_run(settings, tmp_path, cache={"rows_per_shard": 8, "tokens": True})
    before = plan(config)
    assert before.views_reused == 0
    assert Pipeline(config).trained
    after = plan(config)
    assert (after.views_reused, after.reused) == (after.views, ("mapping", "student"))


def test_a_student_of_ones_own_is_the_same_when_it_was_stopped_between(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.stages import train as stage

    plain = python_run(settings, tmp_path)
    whole = Pipeline(plain).trained
    root = settings["root"] + "-stopped"
    config = python_run(
        settings, tmp_path, root=root, runtime={"device": "cpu", "checkpoint_seconds": 0}
    )
    save, saved = stage.save_checkpoint, []

    def save_then_stop(*args: Any, **kwargs: Any) -> Any:
        save(*args, **kwargs)
        saved.append(args)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(stage, "save_checkpoint", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        assert Pipeline(config).trained
    monkeypatch.undo()
    resumed = Pipeline(config).trained
    assert resumed.id == whole.id
    files = [
        Path(place) / "students" / whole.id / "student.safetensors"
        for place in (settings["root"], root)
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_folder_of_transformers_teaches_with_tokens(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2WithRegistersConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=2, patch_size=8, image_size=64,
        num_register_tokens=4,
    )  # fmt: skip
    transformers.Dinov2WithRegistersModel(config).save_pretrained(tmp_path / "dino")
    said = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "dino" / "preprocessor_config.json").write_text(json.dumps(said))
    settings["training"] |= {"local_weight": 0.5, "epochs": 1}
    settings["student"] = {"model": "test_vit", "image_size": 64}
    asked = {"rows_per_shard": 8, "tokens": True}
    done, _ = finish(run(settings, tmp_path, teacher={"hf": "dino", "image_size": 64}, cache=asked))
    cache = FeatureCache.open(done.root, done.extracted.training_cache)
    assert cache.spec.kinds["tokens"].shape == (64, 48)
    assert cache.spec.content["teacher"]["prefix_tokens"] == 5
    assert done.extracted.training_cache.startswith("dino-64px-shapes")


@pytest.mark.slow
def test_two_processes_train_a_student_of_ones_own(
    settings: dict[str, Any], tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    config = python_run(settings, tmp_path, runtime={"device": "cpu", "processes": 2})
    done, _ = finish(config)
    assert done.exported.record["verification"]["smallest_cosine"] > 0.9999


@pytest.mark.slow
def test_the_command_line_runs_a_config_with_functions_beside_it(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    python_run(settings, tmp_path)
    ended = subprocess.run(
        [str(Path(sys.executable).with_name("tintem")), "run", str(tmp_path / "run.yaml")],
        capture_output=True,
        text=True,
        cwd=tmp_path / "..",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
