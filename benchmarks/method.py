"""TinTeM against its baselines: equal budgets, several seeds, two real datasets.

The same student sees the same cached views for the same number of steps; only the objective (and
the mapping) differs. Also: quality against the number of cached views, with a fresh view in every
epoch as gold standard. Needs the demo packages. Run: python benchmarks/method.py --help
"""

import argparse
import functools
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from scipy import stats

from flows.config import RunConfig, parse_config
from flows.demo import prepare
from flows.provenance import provenance
from flows.stages.batches import PixelStore, StepDataset, batches_from
from flows.stages.evaluate import Spaces, spaces_of
from flows.stages.extract import eval_source, view_source
from flows.stages.fit import joint_start, load_mapping
from flows.stages.latents import evaluation_latents, training_latents
from flows.stages.pipeline import Pipeline
from flows.stages.train import class_numbers
from tintem_core.backbones import place
from tintem_core.mapping import angle_preservation
from tintem_core.neighbours import knn_predict
from tintem_core.objectives import build_objective
from tintem_core.ood import auroc, fpr95, nearest_cosine_score
from tintem_core.students import build_student
from tintem_core.teachers import to_float
from tintem_core.training import start_run, train

Array = NDArray[np.float32]
Values = dict[str, float]

WIDTH, TEACHER_SIZE, STUDENT_SIZE, VIEWS, NEIGHBOURS = 256, 128, 64, 8, 10

# What differs from the first one: settings of the mapping, settings of the training.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tintem": ({}, {}),
    "tintem, SNE mapping": ({"objective": "sne"}, {}),
    "cospress (joint SNE, LayerNorm)": (
        {"fit": "joint", "objective": "sne", "head": "layernorm", "start": "random"},
        {},
    ),
    "pca basis": ({"objective": "pca-basis"}, {}),
    "random orthogonal": ({"objective": "random-orthogonal"}, {}),
    "proteus": ({}, {"objective": "proteus"}),
    "linear head, cosine": ({}, {"objective": "linear-cosine"}),
    "supervised": ({}, {"objective": "supervised"}),
}
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


FULL = Budget(seeds=3, epochs=20, images=None, views_studied=(1, 2, 4))
QUICK = Budget(seeds=2, epochs=2, images=160, views_studied=(1,))


class Material:
    """One dataset, extracted once: what all trainings on it share.

    Args:
        settings: the run, as YAML would give it.
        normal: the class that is in-distribution; all others are the anomalies to detect.
    """

    def __init__(self, settings: dict[str, Any], normal: str) -> None:
        self._settings, self._normal = settings, normal
        self.config = parse_config(settings, settings["data"]["name"])
        self.pipeline = Pipeline(self.config)
        data = self.pipeline.indexed.data
        self.pixels = PixelStore(
            view_source(self.config, data, "train"), STUDENT_SIZE, self.config.views.count, 2**32
        )
        self.eval_pixels = {split: self._eval_pixels(split) for split in ("train", "test")}
        self.labels = {split: np.array(data.labels(split)) for split in ("train", "test")}
        self.teacher = {
            split: evaluation_latents(self.pipeline.root, self.pipeline.extracted, data, split)
            for split in ("train", "test")
        }

    def variant(self, name: str, seed: int, **training: Any) -> RunConfig:
        mapping, objective = VARIANTS[name]
        changed = {
            **self._settings,
            "mapping": {**self._settings["mapping"], **mapping},
            "training": {**self._settings["training"], **objective, "seed": seed, **training},
        }
        return parse_config(changed, name)

    def trained(self, config: RunConfig) -> dict[str, Spaces]:
        """Train one student; return its embeddings of both splits, next to the teacher's."""
        pipeline = Pipeline(config)
        root, extracted = self.pipeline.root, self.pipeline.extracted
        indexed, training = self.pipeline.indexed, config.training
        pipeline.__dict__.update(indexed=indexed, extracted=extracted)
        numbers, classes = class_numbers(indexed)
        dataset = StepDataset(
            self.pixels,
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
            split: spaces_of(result.objective, self.teacher[split], _embed(result.student, pixels))
            for split, pixels in self.eval_pixels.items()
        }

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

    def _eval_pixels(self, split: str) -> NDArray[np.uint8]:
        source = eval_source(self.config, self.pipeline.indexed.data, split)
        return np.concatenate(
            [source.views(row, range(1), STUDENT_SIZE) for row in range(len(source.keys))]
        )


@torch.inference_mode()
def _embed(student: torch.nn.Module, pixels: NDArray[np.uint8]) -> Array:
    parts = torch.from_numpy(pixels).split(256)
    return torch.cat([student(to_float(part, torch.device("cpu"))) for part in parts]).numpy()


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


class Results:
    """Every measurement so far, on disk after each training: a stopped benchmark goes on."""

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path = path
        asked = {**budget.__dict__, "views_studied": list(budget.views_studied)}
        self.content: dict[str, Any] = {"budget": asked, "rows": [], "seconds": 0.0}
        if path.exists() and (found := json.loads(path.read_text()))["budget"] == asked:
            self.content = found

    def has(self, **key: Any) -> bool:
        return any(key.items() <= row.items() for row in self.content["rows"])

    def add(self, values: Values, seconds: float = 0.0, **key: Any) -> None:
        self.content["rows"].append({**key, **values})
        self.content["seconds"] += seconds
        self.content["provenance"] = provenance()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.content, indent=1))


def study(name: str, make: functools.partial[Material], budget: Budget, results: Results) -> None:
    """Train and measure everything on one dataset."""
    trainings = [(variant, seed, VIEWS) for seed in range(budget.seeds) for variant in VARIANTS]
    if name == "elpv":
        counts = (*budget.views_studied, budget.epochs)
        trainings += [("tintem", seed, n) for seed in range(budget.seeds) for n in counts]
    missing = [
        each
        for each in trainings
        if not results.has(
            dataset=name, variant=each[0], seed=each[1], views=each[2], space="student"
        )
    ]
    if not missing:
        return
    material = make()
    if not results.has(dataset=name, variant="teacher"):
        values = material.measured(material.teacher["train"], material.teacher["test"])
        results.add(values, dataset=name, variant="teacher", seed=0, views=VIEWS, space="teacher")
    for variant, seed, views in missing:
        started = time.monotonic()
        spaces = material.trained(material.variant(variant, seed, views=views))
        seconds = time.monotonic() - started
        found = {"student": [spaces[split].student for split in ("train", "test")]}
        if spaces["test"].head is not None:
            found["head"] = [spaces[split].head for split in ("train", "test")]
        for space, (bank, queries) in reversed(found.items()):
            values = material.measured(bank, queries)
            key = {"dataset": name, "variant": variant, "seed": seed, "views": views}
            results.add(values, seconds, **key, space=space)
            seconds = 0.0
            print(
                f"{name:>9} {variant:<32} seed {seed} views {views:>2} {space:<8}"
                + " ".join(f"{values[column]:.3f}" for column in COLUMNS),
                flush=True,
            )


def tables(results: dict[str, Any]) -> str:
    """Write the results as Markdown: mean ± half of the 95% interval (Student's t, over seeds)."""
    budget, rows = results["budget"], results["rows"]
    machine = results["provenance"]
    lines = [
        "# TinTeM against its baselines",
        "",
        f"Equal budgets: test_resnet at {STUDENT_SIZE} px from EfficientNet-Lite0 (ImageNet) at "
        f"{TEACHER_SIZE} px, embedding width {WIDTH}, {VIEWS} cached views, {budget['epochs']} "
        f"epochs, {budget['seeds']} seeds (initial weights and data order); only the objective or "
        "the mapping differs. Photos of the test split were never trained on; labels were used by "
        "`supervised` alone. OOD: defects against normal photos, by the cosine to the nearest "
        "normal training photo.",
        "",
        "± is half of the 95% interval of the mean over seeds (Student's t). `through its head`: "
        "the embedding that the baseline throws away at export.",
        "",
        f"Trained in {results['seconds'] / 60:.0f} minutes on {machine['cores']} cores "
        f"({machine['machine']}, torch {machine['packages']['torch']}), {machine['created'][:10]}.",
    ]
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == dataset and row["views"] == VIEWS]
        lines += ["", f"## {dataset}", "", *_header("")]
        for variant, space in dict.fromkeys((row["variant"], row["space"]) for row in mine):
            title = f"{variant}, through its head" if space == "head" else variant
            found = [r for r in mine if (r["variant"], r["space"]) == (variant, space)]
            lines.append(_line(title, found))
        studied = [r for r in rows if (r["dataset"], r["variant"]) == (dataset, "tintem")]
        counts = sorted({row["views"] for row in studied})
        if len(counts) > 1:
            lines += ["", f"### {dataset}: number of cached views (tintem)", "", *_header("views")]
            for count in counts:
                is_fresh = count == budget["epochs"]
                title = f"{count} (a fresh one in every epoch)" if is_fresh else str(count)
                lines.append(_line(title, [r for r in studied if r["views"] == count]))
    return "\n".join(lines) + "\n"


def _header(first: str) -> list[str]:
    return [f"| {first} | " + " | ".join(COLUMNS.values()) + " |", "|---" * 7 + "|"]


def _line(title: str, rows: list[dict[str, Any]]) -> str:
    return f"| {title} | " + " | ".join(_cell([r[c] for r in rows]) for c in COLUMNS) + " |"


def _cell(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: few photos, two epochs")
    parser.add_argument("--folder", type=Path, default=Path("build/bench-method"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    budget, name = (QUICK, "method-quick") if options.quick else (FULL, "method")
    target = options.folder if options.quick else options.results
    folder = (options.folder / name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    results = Results(target / f"{name}.json", budget)
    for dataset, make in materials(folder, budget):
        study(dataset, make, budget, results)
    text = tables(results.content)
    (target / f"{name}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
