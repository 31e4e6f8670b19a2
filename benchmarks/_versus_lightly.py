"""LightlyTrain's side of versus.py: started on one core, its student measured as ours are."""

import json
import os
import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _photos import link_photos
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from flows.config.demo import TEACHER
from flows.data.dataset import Dataset
from flows.data.features import evaluation_latents
from flows.data.rendering import eval_source, render
from flows.stages.measure import measure
from flows.stages.pipeline import Pipeline
from flows.stages.spaces import Spaces, classes_of
from tintem_core.models.backbone import Backbone, build_backbone
from tintem_core.models.config import BackboneConfig

STAGES, STUDENT_SIZE, TEACHER_SIZE, BATCH = 4, 64, 128, 64
# Measured through the head, where teacher and student share a space; the others on the student.
SHARED = ("r2_to_mapped", "same_photo_at_1", "shared_overlap_10")
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Choice:
    """What LightlyTrain leaves open: how large both models see photos, and how fast it learns."""

    image_size: int
    learning_rate: float | None
    """None: its own."""


@dataclass(frozen=True)
class Started:
    """A training at work."""

    process: subprocess.Popen[str]
    kept: Path
    epochs: int


class Lightly:
    """Trains with LightlyTrain.

    Args:
        python: an interpreter that has it.
        folder: everything happens there.
        run: TinTeM's, for photos and the teacher's embeddings.
    """

    def __init__(self, python: Path, folder: Path, run: Pipeline) -> None:
        self._python, self._folder, self._run = python, folder, run
        self._steps: dict[int, float] = {}
        self.version = ""
        self.photos = len(run.indexed.data.keys("train"))
        link_photos(folder / "photos", run.indexed.data.uris("train"))

    def find_out(self, image_size: int, core: int) -> Started:
        """Start a short training, by which it is told how many epochs fit."""
        return self._start(Choice(image_size, None), 1, 0, core)

    def start(self, choice: Choice, seconds: int, seed: int, core: int) -> Started:
        """Start a training of so many seconds."""
        per_epoch = self._steps[choice.image_size] * (self.photos // BATCH)
        return self._start(choice, max(1, round(seconds / per_epoch)), seed, core)

    def _start(self, choice: Choice, epochs: int, seed: int, core: int) -> Started:
        kept = self._folder / f"lightly-{core}.safetensors"
        wanted = {
            **asdict(choice), "photos": str(self._folder / "photos"),
            "out": str(self._folder / f"lightly-{core}"),
            "teacher": [TEACHER, str(self._folder / "teacher.safetensors")],
            "student": None, "stages": STAGES, "batch": BATCH, "seed": seed,
            "epochs": epochs, "steps": None, **normalised(), "keep": str(kept),
        }  # fmt: skip
        place = self._folder / f"lightly-{core}.json"
        place.write_text(json.dumps(wanted))
        words = [self._python, HERE / "_lightly_train.py", place]
        return Started(started(words, core), kept, epochs)

    def found_out(self, image_size: int, training: Started) -> None:
        """Wait for a short training."""
        self._steps[image_size] = statistics.mean(told(training.process)["seconds"])

    def result(self, training: Started) -> dict[str, Any]:
        """Wait for a training; measure its student."""
        found = told(training.process)
        self.version = found["version"]
        return {
            "seconds": found["seconds_in_all"],
            "epochs": training.epochs,
            **self._measured(training.kept),
        }

    def _measured(self, kept: Path) -> dict[str, float]:
        tensors = load_file(kept)
        student = first_stages()
        student.model.load_state_dict(_below(tensors, "backbone."))
        head = nn.Linear(*reversed(tensors["head.weight"].shape))
        head.load_state_dict(_below(tensors, "head."))
        data = self._run.indexed.data
        train, test = (self._spaces(student.eval(), head, data, split)
                       for split in ("train", "test"))  # fmt: skip
        rows = measure(self._run.config, train, {"test": test}, classes_of(data, {}))
        return {
            row["name"]: row["value"]
            for row in rows
            if row["dataset"] == "test"
            and row["subject"] == ("head" if row["name"] in SHARED else "student")
        }

    @torch.inference_mode()
    def _spaces(self, student: Backbone, head: nn.Module, data: Dataset, split: str) -> Spaces:
        source = eval_source(self._run.config, data, split)
        pixels = render(source, range(len(data.keys(split))), STUDENT_SIZE)
        own = torch.cat(
            [
                student(torch.from_numpy(part).permute(0, 3, 1, 2) / 255)
                for part in np.array_split(pixels, max(1, len(pixels) // BATCH))
            ]
        )
        teacher = evaluation_latents(self._run.root, self._run.extracted, data, split)
        return Spaces(teacher, _array(own), None, _array(head(own)))


def first_stages() -> Backbone:
    """Return the student's network."""
    backbone = build_backbone(BackboneConfig(model=TEACHER, image_size=STUDENT_SIZE))
    backbone.keep_stages(STAGES, STUDENT_SIZE)
    return backbone


def normalised() -> dict[str, list[float]]:
    """Return what both models want their pixels normalised with."""
    config = first_stages().model.pretrained_cfg
    return {"mean": list(config["mean"]), "std": list(config["std"])}


def started(words: list[Any], core: int) -> subprocess.Popen[str]:
    """Start a process on one core, with one thread."""
    return subprocess.Popen(
        ["taskset", "--cpu-list", str(core), *map(str, words)], text=True, stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip


def told(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a process prints last, as JSON."""
    printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args} ended with {process.returncode}")
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _array(tensor: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.numpy()
    return found
