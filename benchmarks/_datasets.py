"""Three real data sets, embedded once: what several benchmarks share.

Solar cells and textiles with and without defects (demo packages), foods (npm).
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from _foods import food_lines
from numpy.typing import NDArray

from flows.config.demo import prepare
from flows.config.load import parse_config
from flows.config.run import RunConfig
from flows.data.features import evaluation_latents
from flows.stages.map import apply, load_mapping
from flows.stages.measure import measure
from flows.stages.pipeline import Pipeline
from flows.stages.spaces import Spaces, classes_of
from tintem_core.evaluation.metrics import ALL
from tintem_core.evaluation.ood import Bank, auroc, nearest_cosine

Array = NDArray[np.float32]
Settings = dict[str, Any]
Values = dict[str, float]

WIDTH, TEACHER_SIZE, STUDENT_SIZE, VIEWS, BATCH = 256, 128, 64, 4, 64
# What lies outside of each data set: the photos of the first of these that can be had.
STRANGE = {"elpv": ("textiles",), "textiles": ("foods", "elpv"), "foods": ("elpv",)}
# The class without defects, where the others are defects to detect.
NORMAL = {"elpv": "functional", "textiles": "nominal"}
# No more photos of another data set than this, so that they do not outweigh the test photos.
STRANGE_PHOTOS = 400
# What a column shows: of which photos, and which of the product's measures.
MEASURES = {
    "r2": ("test", "r2_to_mapped"),
    "pearson": ("test", "pairwise_pearson"),
    "pearson_all": (ALL, "pairwise_pearson"),
    "overlap": ("test", "neighbour_overlap_10"),
    "knn": ("test", "knn"),
    "auroc": ("strange", "auroc"),
    "fpr95": ("strange", "fpr95"),
    "same_photo": ("test", "same_photo_at_1"),
    "shared_overlap": ("test", "shared_overlap_10"),
}


@dataclass(frozen=True)
class Budget:
    """How much is trained and on how much; the same for every method.

    The learning rate's schedule counts in epochs of its own, so that every data set, however large,
    gets as many steps.
    """

    seeds: int
    ablation_seeds: int
    epochs: int
    steps_per_epoch: int
    images: int | None
    synthetic: int

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


class Material:
    """One data set, extracted once: what all trainings on it share.

    Args:
        settings: the run, as YAML would give it.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.config = parse_config(settings, settings["data"]["name"])
        self.pipeline = Pipeline(self.config)
        self.data = self.pipeline.indexed.data
        (self.strange,) = self.pipeline.indexed.ood

    def config_with(self, name: str, mapping: Settings, training: Settings) -> RunConfig:
        """Return the run with some settings changed."""
        changed = {
            **self.settings,
            "mapping": {**self.settings["mapping"], **mapping},
            "training": {**self.settings["training"], **training},
        }
        return parse_config(changed, name)

    def pipeline_with(self, config: RunConfig) -> Pipeline:
        """Return the stages of a changed run, which finds the photos and embeddings made."""
        pipeline, mine = Pipeline(config), self.pipeline
        pipeline.__dict__.update(root=mine.root, indexed=mine.indexed, extracted=mine.extracted)
        return pipeline

    @cached_property
    def teacher(self) -> dict[str, Array]:
        """The teacher's embeddings of every set that is measured on."""
        mine = self.pipeline
        places = {"train": (self.data, "train"), "test": (self.data, "test"),
                  "strange": (mine.indexed.ood[self.strange], None)}  # fmt: skip
        return {
            name: evaluation_latents(mine.root, mine.extracted, *place)
            for name, place in places.items()
        }

    def bounds(self) -> dict[str, Values]:
        """Measure the teacher, the mapped teacher, and what knowing nothing of a photo reaches."""
        mapping = load_mapping(self.config, self.pipeline.root, self.pipeline.mapped)
        spaces = {
            name: Spaces(teacher, mapped := apply(mapping, teacher), mapped)
            for name, teacher in self.teacher.items()
        }
        rows = self._rows(self.config, spaces)
        teacher = {**_values(rows, "teacher"), **self._defects(*self._of_test(self.teacher))}
        itself = dict.fromkeys(("pearson", "pearson_all", "overlap"), 1.0)
        mapped = {name: space.student for name, space in spaces.items()}
        chance = {
            column: row["chance"]
            for column, (dataset, name) in MEASURES.items()
            for row in rows
            if (row["dataset"], row["name"]) == (dataset, name) and row["chance"] is not None
        }
        known, wanted = (np.array(self.data.labels(split)) for split in ("train", "test"))
        names, counts = np.unique(known, return_counts=True)
        chance |= {
            "r2": _values(rows, "constant")["r2"],
            "knn": float((wanted == names[counts.argmax()]).mean()),
            "auroc": 0.5,
            "fpr95": 0.95,
        }
        if self.data.name in NORMAL:
            chance["defects"] = 0.5
        return {
            "teacher": {**teacher, **itself},
            "mapped teacher": {
                **_values(rows, "student"), **self._defects(*self._of_test(mapped))
            },
            "chance": chance,
        }  # fmt: skip

    def measured(self, config: RunConfig, spaces: dict[str, Spaces]) -> dict[str, Values]:
        """Measure a student as the product does, by subject: itself, and through its head."""
        rows = self._rows(config, spaces)
        found = {}
        for subject in ("head", "student"):
            seen = {name: getattr(space, subject) for name, space in spaces.items()}
            if seen["test"] is not None:
                defects = self._defects(*self._of_test(seen))
                found[subject] = {**_values(rows, subject), **defects}
        return found

    def _rows(self, config: RunConfig, spaces: dict[str, Spaces]) -> list[dict[str, Any]]:
        sets = {"test": spaces["test"], "strange": spaces["strange"]}
        return measure(config, spaces["train"], sets, classes_of(self.data, {}))

    @staticmethod
    def _of_test(embeddings: dict[str, Array]) -> tuple[Array, Array]:
        return embeddings["train"], embeddings["test"]

    def _defects(self, bank: Array, queries: Array) -> Values:
        """How well defects are told from normal test photos, knowing the normal training photos."""
        if (normal := NORMAL.get(self.data.name)) is None:
            return {}
        known, wanted = (np.array(self.data.labels(split)) for split in ("train", "test"))
        scores = nearest_cosine(Bank(bank[known == normal]))(queries)
        return {"defects": auroc(scores[wanted == normal], scores[wanted != normal])}


def _values(rows: list[dict[str, Any]], subject: str) -> Values:
    found = {(row["dataset"], row["name"]): row["value"] for row in rows
             if row["subject"] == subject}  # fmt: skip
    return {column: found[place] for column, place in MEASURES.items() if place in found}


def materials(folder: Path, budget: Budget) -> Iterator[tuple[str, functools.partial[Material]]]:
    """Yield the data sets that can be had: name, and what makes the material.

    Args:
        folder: of lists, weights and caches; what npm fetches lies beside it.
    """
    demo = yaml.safe_load(prepare(folder).read_text())
    cells = [
        line
        for kind in ("mono", "poly")
        for line in (folder / f"{kind}-cells.csv").read_text().splitlines()[1:]
    ]
    textiles = Path(demo["evaluation"]["ood"][1]["uri"]).parent
    found = {
        "elpv": cells,
        "textiles": [f"{path},{path.parent.name}" for path in sorted(textiles.glob("*/*.jpg"))],
        "foods": food_lines(folder.parent / "foods"),
    }
    listed = {name: lines for name, lines in found.items() if lines}
    for name, lines in listed.items():
        step = max(1, len(lines) // (budget.images or len(lines)))
        (folder / f"{name}.csv").write_text("\n".join(["uri,label", *lines[::step]]) + "\n")

    def source(name: str) -> Settings:
        return {"name": name, "uri": str(folder / f"{name}.csv"), "label_column": "label"}

    for name in listed:
        strange = next(other for other in STRANGE[name] if other in listed)
        settings = {
            "root": str(folder / "root"),
            "data": source(name),
            "teacher": {
                "model": "tf_efficientnet_lite0",
                "weights": str(folder / "teacher.safetensors"),
                "image_size": TEACHER_SIZE,
            },
            "views": {"count": VIEWS},
            "support": {"synthetic": budget.synthetic},
            "mapping": {"width": WIDTH},
            "student": {"model": "test_resnet", "image_size": STUDENT_SIZE},
            "training": {
                "epochs": budget.epochs, "batch_size": BATCH, "learning_rate": 5e-3,
            },
            # The intervals are over seeds; those over photos are not used.
            "evaluation": {
                "ood": [{**source(strange), "max_images": STRANGE_PHOTOS}], "resamples": 100
            },
            "runtime": {"device": "cpu"},
        }  # fmt: skip
        yield name, functools.partial(Material, settings)
