"""A run small enough to be repeated often: real models, real photos on disk, real Zarr."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file

from flows.reporting.base import Advance
from tintem_core.models.backbone import build_backbone
from tintem_core.models.config import BackboneConfig

TEACHER = "test_efficientnet"


def write_teacher(path: Path, seed: int = 0) -> Path:
    """Write reproducible weights of a small teacher."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_backbone(BackboneConfig(model=TEACHER, image_size=64)).model
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


def write_onnx(path: Path, seed: int = 0, *, external: bool = False) -> None:
    """Write a small network of 64 px images: patches, a rectifier, their mean.

    Args:
        path: of the file.
        seed: of the weights.
        external: whether they lie in a file beside it, called like it with .data behind.
    """
    import onnx
    import torch
    from onnx import TensorProto, helper, numpy_helper

    weight = torch.randn(48, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) / 16
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], strides=[16, 16]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 48, 1, 1])],
        [numpy_helper.from_array(weight.numpy(), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path), save_as_external_data=external, location=f"{path.name}.data")


def small_run(folder: Path, photos: Path) -> dict[str, Any]:
    """Return the settings of a run that ends in seconds."""
    return {
        "root": str(folder / "root"),
        "data": {"name": "shapes", "uri": str(photos), "test_share": 0.3},
        "teacher": {
            "model": TEACHER,
            "weights": str(write_teacher(folder / "teacher.safetensors")),
            "image_size": 64,
        },
        "views": {"count": 2},
        "cache": {"rows_per_shard": 8},
        "mapping": {"width": 32, "steps": 20, "batch_size": 32},
        "student": {"model": "test_resnet", "image_size": 32},
        "training": {"epochs": 3, "batch_size": 8, "support": 0},
        "evaluation": {"resamples": 100},
        # The other formats have tests of their own.
        "export": {"images": 8, "formats": ["onnx"]},
        "runtime": {"device": "cpu"},
    }


def write_config(folder: Path, settings: dict[str, Any], name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(settings))
    return path


class Notes:
    """A reporter that remembers: what was tracked, what was said of it, and what was noted."""

    def __init__(self) -> None:
        self.work: dict[str, int] = {}
        self.said: dict[str, list[str]] = {}
        self.notes: list[str] = []

    def track(self, title: str, total: int, unit: str) -> Any:
        import contextlib

        @contextlib.contextmanager
        def tracking() -> Iterator[Advance]:
            self.work.setdefault(title, 0)

            def advance(done: int, /, says: str = "") -> None:
                self.work[title] += done
                if says:
                    self.said.setdefault(title, []).append(says)

            yield advance

        return tracking()

    def note(self, text: str) -> None:
        self.notes.append(text)
