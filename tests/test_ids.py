"""The ids of three fixed runs: what is stored under a root must be found again after any change.

An id follows from a specification. If one of these changes, caches and students that exist are
computed anew: only a change of the method, with a new method version, may do so.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from flows.config.load import parse_config
from flows.stages.ids import METHODS
from flows.stages.pipeline import Pipeline
from tintem_core.export.formats import FORMATS
from tintem_core.models.backbone import build_backbone
from tintem_core.models.config import BackboneConfig

TEACHER = "test_efficientnet"


def write_photos(folder: Path, count: int, seed: int) -> str:
    """Write photos in two class folders, in a format without a compressor that may change."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
        place = folder / ("disc", "plain")[i % 2] / f"{i:02d}.ppm"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"P6 48 40 255\n" + pixels.tobytes())
    return str(folder)


def write_weights(path: Path, seed: int) -> str:
    """Write weights that no random generator of torch has drawn: their digest is in every id."""
    rng = np.random.default_rng(seed)
    model = build_backbone(BackboneConfig(model=TEACHER, image_size=64)).model
    tensors = {}
    for name, value in sorted(model.state_dict().items()):
        array = value.numpy()
        if array.ndim > 1:
            array = rng.normal(0, np.sqrt(2 / np.prod(array.shape[1:])), array.shape)
        elif name.endswith(("weight", "running_var")):
            array = np.ones_like(array)
        else:
            array = np.zeros_like(array)
        tensors[name] = array.astype(value.numpy().dtype)
    save_file(tensors, path)
    return str(path)


def mapped_run(folder: Path) -> dict[str, Any]:
    """A student that matches the mapped teacher, with an OOD set."""
    return {
        "root": str(folder / "root"),
        "data": {
            "name": "shapes",
            "uri": write_photos(folder / "shapes", 32, 0),
            "test_share": 0.3,
        },
        "teacher": {
            "model": TEACHER,
            "weights": write_weights(folder / "teacher.safetensors", 0),
            "image_size": 64,
        },
        "views": {"count": 2},
        "cache": {"rows_per_shard": 8},
        "mapping": {"width": 16, "steps": 2, "batch_size": 16},
        "student": {"model": "test_resnet", "image_size": 32},
        # As it was before these three existed: students of then keep their ids.
        "training": {
            "epochs": 1,
            "batch_size": 16,
            "evaluation_view": 0,
            "support": 0,
            "centred_weight": 0,
        },
        "evaluation": {
            "resamples": 100,
            "ood_neighbour": 1,
            "ood": [{"name": "strange", "uri": write_photos(folder / "strange", 6, 1)}],
        },
        "export": {"images": 2},
        "runtime": {"device": "cpu"},
    }


def token_run(folder: Path) -> dict[str, Any]:
    """A student that matches patch tokens, which are stored through the mapping, in int8."""
    settings = mapped_run(folder)
    settings["cache"] |= {"dtype": "int8", "tokens": True, "keep_mapped": True}
    settings["training"]["local_weight"] = 0.5
    return settings


def supervised_run(folder: Path) -> dict[str, Any]:
    """A student that learns labels, beside two teachers."""
    settings = mapped_run(folder)
    other = {**settings["teacher"], "weights": write_weights(folder / "other.safetensors", 2)}
    settings["other_teachers"] = [{**other, "weight": 0.5}]
    settings["training"]["objective"] = "supervised"
    return settings


GOLDEN = [
    (
        mapped_run,
        {
            "images": "shapes-43936f65c9",
            "training cache": "test-efficientnet-64px-shapes-light-f0642272a6",
            "evaluation caches": {
                "shapes": "test-efficientnet-64px-shapes-eval-e11466811e",
                "strange": "test-efficientnet-64px-strange-eval-0db64a93fc",
            },
            "mapping": "cosine-16-shapes-ad54fd5307",
            "student": "test-resnet-shapes-370934acbe",
            "evaluation": "test-resnet-shapes-c2e2a7afa7",
            "export": "test-resnet-shapes-7c3cd26766",
        },
    ),
    (
        token_run,
        {
            "images": "shapes-43936f65c9",
            "training cache": "test-efficientnet-64px-shapes-light-69f4f45488",
            "evaluation caches": {
                "shapes": "test-efficientnet-64px-shapes-eval-8790a7b4a5",
                "strange": "test-efficientnet-64px-strange-eval-fbac12f979",
            },
            "mapping": "cosine-16-shapes-b09c34b47e",
            "student": "test-resnet-shapes-2c88e31c61",
            "evaluation": "test-resnet-shapes-3a4e096181",
            "export": "test-resnet-shapes-7a99537ad9",
        },
    ),
    (
        supervised_run,
        {
            "images": "shapes-43936f65c9",
            "training cache": "test-efficientnet-64px-shapes-light-f0642272a6",
            "evaluation caches": {
                "shapes": "test-efficientnet-64px-shapes-eval-e11466811e",
                "strange": "test-efficientnet-64px-strange-eval-0db64a93fc",
            },
            "mapping": "cosine-16-shapes-6a5ad4d844",
            "student": "test-resnet-shapes-4be8271e29",
            "evaluation": "test-resnet-shapes-c7f9cba16d",
            "export": "test-resnet-shapes-0e33fc5dbb",
        },
    ),
]


@pytest.mark.parametrize(("settings", "ids"), GOLDEN)
def test_ids_of_a_fixed_run_stay_as_they_are(
    settings: Callable[[Path], dict[str, Any]],
    ids: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is measured has changed since: of an evaluation's id nothing else has.
    monkeypatch.setitem(METHODS, "evaluations", 2)
    # Of an export's id too: more files are published.
    monkeypatch.setitem(METHODS, "exports", 1)
    # Training views are resampled otherwise since.
    monkeypatch.setattr("tintem_core.views._RESAMPLING_VERSION", 1)
    # Which of them there are is no matter here, and takes its time.
    monkeypatch.setattr("flows.stages.packaging.FORMATS", {"onnx": FORMATS["onnx"]})
    done = Pipeline(parse_config(settings(tmp_path), "run"))
    assert {
        "images": done.indexed.data.manifest.id,
        "training cache": done.extracted.training_cache,
        "evaluation caches": done.extracted.evaluation_caches,
        "mapping": done.mapped.id,
        "student": done.trained.id,
        "evaluation": done.evaluated.id,
        "export": done.exported.id,
    } == ids
