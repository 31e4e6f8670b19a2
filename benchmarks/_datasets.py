"""Two real datasets with defects to detect, embedded once: what several benchmarks share."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from flows.config import RunConfig, parse_config
from flows.demo import prepare
from flows.stages.latents import evaluation_latents
from flows.stages.pipeline import Pipeline
from tintem_core.mapping import angle_preservation
from tintem_core.neighbours import knn_predict
from tintem_core.ood import auroc, fpr95, nearest_cosine_score

Array = NDArray[np.float32]
Settings = dict[str, Any]
Values = dict[str, float]

WIDTH, TEACHER_SIZE, STUDENT_SIZE, VIEWS, NEIGHBOURS = 256, 128, 64, 8, 10
COLUMNS = {
    "pairwise_pearson": "Pearson of pairwise cosines",
    "neighbour_overlap_10": "neighbour overlap@10",
    "knn_accuracy": "kNN accuracy",
    "knn_agreement": "kNN agreement",
    "ood_auroc": "OOD AUROC",
    "ood_fpr95": "OOD FPR95 ↓",
}


@dataclass(frozen=True)
class Budget:
    """How much is trained and on how much; the same for every variant."""

    seeds: int
    epochs: int
    images: int | None
    views_studied: tuple[int, ...]


class Material:
    """One dataset, extracted once: what all trainings on it share.

    Args:
        settings: the run, as YAML would give it.
        normal: the class that is in-distribution; all others are the anomalies to detect.
    """

    def __init__(self, settings: dict[str, Any], normal: str) -> None:
        self.settings, self._normal = settings, normal
        self.config = parse_config(settings, settings["data"]["name"])
        self.pipeline = Pipeline(self.config)
        data = self.pipeline.indexed.data
        self.labels = {split: np.array(data.labels(split)) for split in ("train", "test")}
        self.teacher = {
            split: evaluation_latents(self.pipeline.root, self.pipeline.extracted, data, split)
            for split in ("train", "test")
        }

    def config_with(self, name: str, mapping: Settings, training: Settings) -> RunConfig:
        """Return the run with some settings changed."""
        changed = {
            **self.settings,
            "mapping": {**self.settings["mapping"], **mapping},
            "training": {**self.settings["training"], **training},
        }
        return parse_config(changed, name)

    def measured(self, bank: Array, queries: Array) -> Values:
        """Measure one space: the embeddings of the train photos, and of the test photos."""
        known, wanted = self.labels["train"], self.labels["test"]
        classes = {name: number for number, name in enumerate(sorted(set(known)))}
        numbers = np.array([classes[name] for name in known])

        def predicted(*space: Array) -> NDArray[np.int64]:
            return knn_predict(space[0], numbers, space[1], NEIGHBOURS)[1]

        mine = predicted(bank, queries)
        theirs = predicted(self.teacher["train"], self.teacher["test"])
        scores = nearest_cosine_score(bank[known == self._normal], queries)
        is_normal = wanted == self._normal
        preserved = angle_preservation(self.teacher["test"], queries)
        return {
            **{name: preserved[name] for name in list(COLUMNS)[:2]},
            "knn_accuracy": float((mine == [classes[name] for name in wanted]).mean()),
            "knn_agreement": float((mine == theirs).mean()),
            "ood_auroc": auroc(scores[is_normal], scores[~is_normal]),
            "ood_fpr95": fpr95(scores[is_normal], scores[~is_normal]),
        }


def materials(folder: Path, budget: Budget) -> Iterator[tuple[str, functools.partial[Material]]]:
    """Solar cells with defects, textiles with defects: photos from the demo packages."""
    demo = yaml.safe_load(prepare(folder).read_text())
    listed = [
        line
        for kind in ("mono", "poly")
        for line in (folder / f"{kind}-cells.csv").read_text().splitlines()[1:]
    ]
    _list(folder / "elpv.csv", listed, budget)
    textiles = Path(demo["evaluation"]["ood"][1]["uri"]).parent
    listed = [f"{path},{path.parent.name}" for path in sorted(textiles.glob("*/*.jpg"))]
    _list(folder / "textiles.csv", listed, budget)
    for name, normal in (("elpv", "functional"), ("textiles", "nominal")):
        # Only the study of the views needs more of them than the comparison.
        views = max(VIEWS, budget.epochs) if name == "elpv" else VIEWS
        settings = {
            "root": str(folder / "root"),
            "data": {"name": name, "uri": str(folder / f"{name}.csv"), "label_column": "label"},
            "teacher": {
                "model": "tf_efficientnet_lite0",
                "weights": str(folder / "teacher.safetensors"),
                "image_size": TEACHER_SIZE,
            },
            "views": {"count": views},
            "mapping": {"width": WIDTH},
            "student": {"model": "test_resnet", "image_size": STUDENT_SIZE},
            "training": {
                "epochs": budget.epochs, "batch_size": 64, "learning_rate": 5e-3, "views": VIEWS,
                # Nearly twice as fast for this student, also on CPUs.
                "precision": "bfloat16",
            },
            "runtime": {"device": "cpu"},
        }  # fmt: skip
        yield name, functools.partial(Material, settings, normal)


def _list(path: Path, lines: list[str], budget: Budget) -> None:
    step = max(1, len(lines) // (budget.images or len(lines)))
    path.write_text("\n".join(["uri,label", *lines[::step]]) + "\n")
