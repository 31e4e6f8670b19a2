"""TinTeM against its baselines: equal budgets, several seeds, two real datasets.

The same student sees the same cached views for the same number of steps; only the objective (and
the mapping) differs. Also: quality against the number of cached views, with a fresh view in every
epoch as gold standard. Needs the demo packages. Run: python benchmarks/method.py --help
"""

import argparse
import functools
import hashlib
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _datasets import (
    COLUMNS,
    STUDENT_SIZE,
    VIEWS,
    WIDTH,
    Array,
    Budget,
    Material,
    Settings,
    Values,
    materials,
)
from _method_tables import tables
from numpy.typing import NDArray

from flows.config import RunConfig
from flows.provenance import provenance
from flows.stages.batches import PixelStore, StepDataset, batches_from
from flows.stages.extract import eval_source, view_source
from flows.stages.fit import joint_start, load_mapping
from flows.stages.latents import training_latents
from flows.stages.measure import Spaces, spaces_of
from flows.stages.pipeline import Pipeline
from flows.stages.train import class_numbers
from tintem_core.backbones import place
from tintem_core.objectives import build_objective
from tintem_core.students import build_student
from tintem_core.teachers import to_float
from tintem_core.training import start_run, train

# What differs from the first one: settings of the mapping, settings of the training.
VARIANTS: dict[str, tuple[Settings, Settings]] = {
    "tintem": ({}, {}),
    "tintem, principal axes": ({"axes": "principal"}, {}),
    "tintem, SNE mapping": ({"objective": "sne"}, {}),
    "tintem, LayerNorm head": ({"head": "layernorm"}, {}),
    "tintem, orthogonal head": ({"head": "orthogonal"}, {}),
    "cospress (joint SNE, LayerNorm)": (
        {"fit": "joint", "objective": "sne", "head": "layernorm", "start": "random"},
        {},
    ),
    "svd basis": ({"objective": "svd"}, {}),
    "pca basis": ({"objective": "pca-basis"}, {}),
    "random orthogonal": ({"objective": "random-orthogonal"}, {}),
    "proteus": ({}, {"objective": "proteus"}),
    "linear head, cosine": ({}, {"objective": "linear-cosine"}),
    "supervised": ({}, {"objective": "supervised"}),
}
FULL = Budget(seeds=3, epochs=16, images=None, views_studied=(1, 2, 4))
QUICK = Budget(seeds=2, epochs=2, images=160, views_studied=(1,))


class Students:
    """Trains students on one dataset, from the same pixels and latents."""

    def __init__(self, material: Material) -> None:
        self.material = material
        config, data = material.config, material.pipeline.indexed.data
        self._pixels = PixelStore(
            view_source(config, data, "train"), STUDENT_SIZE, config.views.count, 2**32
        )
        self._eval_pixels = {split: self._eval_views(split) for split in ("train", "test")}

    def trained(self, config: RunConfig) -> dict[str, Spaces]:
        """Train one student; return its embeddings of both splits, next to the teacher's."""
        pipeline = Pipeline(config)
        mine = self.material.pipeline
        root, extracted, indexed = mine.root, mine.extracted, mine.indexed
        training = config.training
        pipeline.__dict__.update(indexed=indexed, extracted=extracted)
        numbers, classes = class_numbers(indexed)
        dataset = StepDataset(
            self._pixels,
            training_latents(root, extracted, indexed.data.keys("train")),
            training.batch_size,
            training.seed,
            labels=numbers if training.objective == "supervised" else None,
            views=training.views,
        )
        mapping = load_mapping(config, root, pipeline.mapped)
        joint = config.mapping if config.mapping.fit == "joint" else None
        objective = build_objective(
            training,
            mapping if joint is None else joint_start(config, mapping),
            joint,
            classes=len(classes),
            seed=training.seed,
        )
        student = place(build_student(config.student, WIDTH, training.seed), "cpu")
        run = start_run(student, objective, training, dataset.steps_per_epoch)
        steps = training.epochs * dataset.steps_per_epoch
        train(
            run,
            batches_from(dataset, 0, steps, 0),
            training,
            dataset.steps_per_epoch,
            save=lambda _step, _checkpoint: None,
            save_every_s=math.inf,
        )
        result = run.result
        return {
            split: spaces_of(
                result.objective, self.material.teacher[split], _embed(result.student, pixels)
            )
            for split, pixels in self._eval_pixels.items()
        }

    def _eval_views(self, split: str) -> NDArray[np.uint8]:
        source = eval_source(self.material.config, self.material.pipeline.indexed.data, split)
        return np.concatenate(
            [source.views(row, range(1), STUDENT_SIZE) for row in range(len(source.keys))]
        )


@torch.inference_mode()
def _embed(student: torch.nn.Module, pixels: NDArray[np.uint8]) -> Array:
    parts = torch.from_numpy(pixels).split(256)
    return torch.cat([student(to_float(part, torch.device("cpu"))) for part in parts]).numpy()


class Results:
    """Every measurement so far, on disk after each training: a stopped benchmark goes on.

    Only with the same budget and the same code, so that a table holds what one version gives.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path = path
        self.content: dict[str, Any] = {
            "budget": {**budget.__dict__, "views_studied": list(budget.views_studied)},
            "code": code_digest(),
            "rows": [],
        }
        if path.exists():
            found = json.loads(path.read_text())
            if all(found[name] == self.content[name] for name in ("budget", "code")):
                self.content = found

    def has(self, **key: Any) -> bool:
        return any(key.items() <= row.items() for row in self.content["rows"])

    def add(self, values: Values, **key: Any) -> None:
        self.content["rows"].append({**key, **values})
        self.content["provenance"] = provenance()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.content, indent=1))


@dataclass(frozen=True)
class Job:
    """One student to train."""

    variant: str
    seed: int
    views: int


def code_digest() -> str:
    """Return a digest of every source file that a result may depend on."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for folder in ("tintem_core", "storage", "flows", "benchmarks"):
        for path in sorted((here.parent / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def study(name: str, make: functools.partial[Material], budget: Budget, results: Results) -> None:
    """Train and measure everything on one dataset, as many students side by side as cores."""
    jobs = [Job(variant, seed, VIEWS) for seed in range(budget.seeds) for variant in VARIANTS]
    if name == "elpv":
        counts = (*budget.views_studied, budget.epochs)
        jobs += [Job("tintem", seed, n) for seed in range(budget.seeds) for n in counts]
    missing = [job for job in jobs if not results.has(**asdict(job), dataset=name, space="student")]
    if not missing:
        return
    material = make()
    if not results.has(dataset=name, variant="teacher"):
        values = material.measured(material.teacher["train"], material.teacher["test"])
        results.add(values, dataset=name, variant="teacher", seed=0, views=VIEWS, space="teacher")
    # torch's own, so that all processes share the rendered pixels.
    context = torch.multiprocessing.get_context("spawn")
    with context.Pool(os.cpu_count(), begin, (Students(material),)) as pool:
        for job, seconds, found in pool.imap_unordered(train_one, missing):
            for space, values in found.items():
                results.add(values, **asdict(job), dataset=name, space=space, seconds=seconds)
                print(
                    f"{name:>9} {job.variant:<32} seed {job.seed} views {job.views:>2} {space:<8}"
                    + " ".join(f"{values[column]:.3f}" for column in COLUMNS),
                    flush=True,
                )


def begin(students: Students) -> None:
    """Be a process that trains students, with one thread: small ones gain little from more."""
    global STUDENTS
    torch.set_num_threads(1)
    STUDENTS = students


def train_one(job: Job) -> tuple[Job, float, dict[str, Values]]:
    """Return how long a student took, and what was measured: its own embedding comes last."""
    started = time.monotonic()
    material = STUDENTS.material
    mapping, training = VARIANTS[job.variant]
    changed = {**training, "seed": job.seed, "views": job.views}
    spaces = STUDENTS.trained(material.config_with(job.variant, mapping, changed))
    seconds = round(time.monotonic() - started, 1)
    train, test = spaces["train"], spaces["test"]
    found = {"student": material.measured(train.student, test.student)}
    if train.head is not None and test.head is not None:
        found = {"head": material.measured(train.head, test.head), **found}
    return job, seconds, found


STUDENTS: Students


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: few photos, two epochs")
    parser.add_argument("--folder", type=Path, default=Path("build/bench-method"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    budget, name = (QUICK, "method-quick") if options.quick else (FULL, "method")
    folder = (options.folder / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(folder / "results.json", budget)
    for dataset, make in materials(folder, budget):
        study(dataset, make, budget, results)
    text = tables(results.content, VARIANTS)
    if not options.quick:
        options.results.mkdir(parents=True, exist_ok=True)
        (options.results / "method.md").write_text(text)
        (options.results / "method.json").write_text(json.dumps(results.content, indent=1))
    print(text)


if __name__ == "__main__":
    main()
