"""Runs with drawn settings: what a config and its preflight let pass ends with an export.

python -m tests.system.drawn_runs --seed 1 --count 200
"""

import argparse
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flows.config.load import parse_config
from flows.stages.pipeline import Pipeline
from flows.stages.preflight import preflight
from storage.errors import StorageError
from tests.photos import write_photos
from tests.runs import small_run, write_config, write_onnx, write_teacher
from tintem_core.errors import InputError, TintemError

STAGES = ("indexed", "extracted", "mapped", "trained", "evaluated", "exported")
_RECIPES = (
    {"name": "light"},
    {"name": "light", "min_scale": 0.08, "flip": 0.0},
    {"name": "timm"},
    {"name": "timm", "augment": "rand-m9-n3-mstd0.5"},
)
_MODELS = ("resnet", "vit", "efficientnet", "convnext", "byobnet", "mambaout", "nfnet")
_FORMATS = ("uint8", "web", "timm", "fp16", "int8", "ood", "triton")


class Draws:
    """Draws settings for photos that lie in a folder.

    Args:
        folder: empty; photos and teachers are made in it.
        seed: of every choice.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._random = folder, random.Random(seed)
        for name, first, count in (("photos", 0, 60), ("odd", 500, 16), ("more", 700, 20)):
            write_photos(folder / name, range(first, first + count))
        _write_masks(folder / "photos", folder / "masks")
        self._plain = small_run(folder, folder / "photos")
        write_onnx(folder / "teacher.onnx")
        write_teacher(folder / "second.safetensors", seed=1)

    def settings(self) -> dict[str, Any]:
        """Draw the settings of a run; not every combination is allowed."""
        c = self._random.choice
        tokens, objective = c([True, False]), c(["tintem"] * 4 + ["proteus", "supervised"])
        keeps = tokens and objective == "tintem" and self._chance(0.4)
        joint = objective == "tintem" and not keeps and self._chance(0.25)
        fitted = ["sne", "cosine"]
        recipe = c([*_RECIPES, {"name": "eval"}])
        return {
            **self._plain,
            **self._teachers(),
            "data": {**self._plain["data"], "labels": c(["folders"] * 5 + ["none"])},
            "views": {"count": 1 if recipe["name"] == "eval" else c([1, 2, 3]), "recipe": recipe},
            "cache": {
                "rows_per_shard": c([4, 8, 64]),
                "dtype": c(["float16", "int8", "float32"]),
                "codec": c(["none", "none", "zstd", "blosc-shuffle"]),
                "tokens": tokens,
                "keep_mapped": keeps,
            },
            "mapping": {
                "width": c([16, 32, 48]),
                "steps": c([1, 20]),
                "batch_size": c([8, 32]),
                "objective": c(fitted if joint else ["svd", "random-orthogonal", *fitted]),
                "head": c(["linear", "layernorm", "orthogonal"]),
                "axes": c(["mixed", "principal"]),
                "fit": "joint" if joint else "once",
            },
            "student": self._student(),
            "training": self._training(objective, tokens and objective != "supervised"),
            "support": {"synthetic": c([0, 16]), "photos": self._named("more", 0.4)},
            "evaluation": self._evaluation(),
            "export": {
                "images": c([1, 8]),
                "formats": ["onnx", *self._random.sample(_FORMATS, c([0, 1, 2]))],
                "ood_bank": c([4, 256]),
            },
            "runtime": {"device": "cpu", "checkpoint_seconds": 0},
        }

    def _chance(self, share: float) -> bool:
        return self._random.random() < share

    def _named(self, name: str, share: float) -> list[dict[str, str]]:
        return [{"name": name, "uri": str(self._folder / name)}] if self._chance(share) else []

    def _teachers(self) -> dict[str, Any]:
        if self._chance(0.15):
            values = [0.5] * 3
            onnx = str(self._folder / "teacher.onnx")
            return {"teacher": {"onnx": onnx, "image_size": 64, "mean": values, "std": values}}
        second = {**self._plain["teacher"], "weights": str(self._folder / "second.safetensors")}
        return {"other_teachers": [second]} if self._chance(0.3) else {}

    def _student(self) -> dict[str, Any]:
        name = self._random.choice(_MODELS)
        found = {"model": f"test_{name}", "image_size": self._random.choice([32, 48, 64])}
        if name == "vit":
            found["options"] = {"dynamic_img_size": True}
        if self._chance(0.3):
            found["stages"] = self._random.choice([1, 2, 3, 4])
        return found

    def _training(self, objective: str, has_tokens: bool) -> dict[str, Any]:
        c = self._random.choice
        return {
            "objective": objective,
            "epochs": c([1, 2, 3]),
            "batch_size": c([4, 8, 16]),
            "accumulation": c([1, 2]),
            "views": c([None, 1]),
            "support": c([0, 0, 0.5]),
            "local_weight": c([0, 1.0]) if has_tokens else 0,
            "centred_weight": c([0, 1.0]),
            "evaluation_view": c([0, 0.3, 0.9]),
            "schedule": c(["cosine", "tanh", "poly", "wsd", "rsqrt", "step", "constant"]),
            "warmup_epochs": c([0, 1, 2]),
            "optimizer": c(["adamw", "sgd", "lamb", "muon", "lion"]),
            "clip_norm": c([None, 1.0]),
            "ema_decay": c([None, 0.9]),
            "precision": c(["float32", "bfloat16"]),
            "select": c(["last", "last", "best"]),
            "validation_share": 0.3,
            "validate_every": c([1, 10]),
        }

    def _evaluation(self) -> dict[str, Any]:
        c = self._random.choice
        odd = self._named("odd", 0.5)
        return {
            "ood": odd,
            "shifts": {"odd": c(["near", "far", "covariate"])} if odd and self._chance(0.5) else {},
            "knn": c([1, 5, 10]),
            "ood_score": c(["nearest-cosine", "mahalanobis", "relative-mahalanobis"]),
            "ood_neighbour": c([1, 3]),
            "probes": c([[], [], ["linear"], ["logistic"], ["linear", "logistic"]]),
            "corrupted_photos": c([0, 0, 0, 4]),
            "fine_tune_epochs": c([0, 0, 1]),
            "masks": c([None, None, str(self._folder / "masks")]),
            "resamples": 100,
        }


def run_drawn(folder: Path, seed: int, count: int, say: Callable[[str], None]) -> list[str]:
    """Run drawn settings until so many were allowed.

    Args:
        folder: empty; the settings of a run that failed stay in it.
        seed: of every choice.
        count: of runs.
        say: is told of each.

    Returns:
        Of each run that was allowed and failed, where and why.
    """
    draws, failed, refused, done = Draws(folder, seed), [], 0, 0
    while done < count:
        settings = draws.settings()
        shutil.rmtree(settings["root"], ignore_errors=True)
        try:
            config = parse_config(settings, "drawn settings")
            preflight(config)
        except InputError:
            refused += 1
            continue
        done += 1
        pipeline, stage = Pipeline(config), ""
        try:
            for stage in STAGES:
                getattr(pipeline, stage)
        except (TintemError, StorageError) as error:
            path = write_config(folder, settings, f"failed-{done}.yaml")
            failed.append(f"{path}: {stage}: {error}")
            say(failed[-1])
    say(f"seed {seed}: {count} runs, {len(failed)} failed, {refused} drawn settings were refused")
    return failed


def _write_masks(photos: Path, masks: Path) -> None:
    for path in photos.rglob("*.png"):
        mask = masks / path.relative_to(photos)
        mask.parent.mkdir(parents=True, exist_ok=True)
        grey = np.asarray(Image.open(path).convert("L"))
        Image.fromarray((grey > grey.mean()).astype(np.uint8)).save(mask)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--count", type=int, default=100, help="of runs that are allowed")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tintem-drawn-"))
    if run_drawn(folder, given.seed, given.count, lambda text: print(text, flush=True)):
        raise SystemExit(f"failed; the settings are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
