"""Stage 5: how faithful the student is, on photos that were never trained on.

Legend: ``N`` images, ``D`` teacher width, ``K`` student width.
"""

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from flows.config import RunConfig
from flows.provenance import provenance
from flows.reporting import Advance, reporter
from flows.stages.alone import made_once
from flows.stages.batches import ViewSource
from flows.stages.datasets import Dataset
from flows.stages.extract import eval_source
from flows.stages.fit import apply
from flows.stages.latents import evaluation_latents, latents_by_teacher
from flows.stages.results import Evaluated, Extracted, Indexed, Mapped, Trained
from flows.stages.students import load_objective, load_student
from flows.stages.teacher import choose_device
from storage.identity import make_id
from storage.root import Root
from tintem_core.backbones import place
from tintem_core.faithfulness import (
    MetricRow,
    faithfulness,
    prediction_agreement,
    score_rank_correlation,
)
from tintem_core.neighbours import knn_predict
from tintem_core.objectives import MatchMapped, Objective
from tintem_core.ood import auroc, bootstrap_interval, fpr95, fpr95_openood, nearest_cosine_score
from tintem_core.students import Student
from tintem_core.teachers import to_float

Array = NDArray[np.float32]
_BATCH = 64


@dataclass(frozen=True)
class Spaces:
    """Embeddings of the same images.

    ``mapped`` is what the student was trained to give, where its objective is that; ``head`` is the
    student seen through a baseline's training head, in the teacher's space.
    """

    teacher: Array
    student: Array
    mapped: Array | None = None
    head: Array | None = None

    def subjects(self) -> Iterator[tuple[str, Array]]:
        yield "teacher", self.teacher
        yield "student", self.student
        if self.head is not None:
            yield "head", self.head


def evaluate(
    config: RunConfig,
    root: Root,
    indexed: Indexed,
    extracted: Extracted,
    mapped: Mapped,
    trained: Trained,
) -> Evaluated:
    """Make sure that the student's evaluation exists."""
    spec: dict[str, object] = {
        "student": trained.id,
        "caches": [extracted.evaluation, *([o.evaluation, o.weight] for o in extracted.others)],
        "images": {m.name: m.digest(labels=True) for m in indexed.datasets()},
        "settings": config.evaluation.model_dump(include={"knn", "ood_neighbour", "resamples"}),
    }
    evaluation_id = make_id(f"{config.student.model}-{config.data.name}", spec)
    record, reused = made_once(
        root,
        "evaluations",
        evaluation_id,
        lambda: _evaluate(config, root, spec, indexed, extracted, mapped, trained),
    )
    return Evaluated(id=evaluation_id, record=record, reused=reused)


def _evaluate(
    config: RunConfig,
    root: Root,
    spec: dict[str, object],
    indexed: Indexed,
    extracted: Extracted,
    mapped: Mapped,
    trained: Trained,
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Measure; return the evaluation's files and its record."""
    student = load_student(config, root, mapped, trained)
    objective = load_objective(config, root, mapped, trained)
    total = sum(len(m.keys()) for m in indexed.datasets())
    with reporter().track("Evaluate", total, "photos") as advance:

        def spaces(dataset: Dataset, split: str | None) -> Spaces:
            latents = evaluation_latents(root, extracted, dataset, split)
            source = eval_source(config, dataset, split)
            embeddings = embed_images(config, student, source, advance)
            return spaces_of(objective, latents, embeddings)

        train = spaces(indexed.data, "train")
        test = spaces(indexed.data, "test")
        ood = {name: spaces(d, None) for name, d in indexed.ood.items()}
    rows = _measure(config, indexed.data, train, test, ood)
    if extracted.others:
        for dataset in indexed.datasets():
            is_data = dataset is indexed.data
            student_NK = (test if is_data else ood[dataset.name]).student
            split = "test" if is_data else None
            latents = latents_by_teacher(root, extracted, dataset, split, config.teacher.model)
            name = "test" if is_data else dataset.name
            rows += _per_teacher(config, name, latents, student_NK)
    table = io.BytesIO()
    pl.DataFrame(rows).write_parquet(table)
    curves = io.BytesIO()
    _scores(config, train, test, ood).write_parquet(curves)
    record = {
        "spec": spec,
        "metrics": {_label(row): row["value"] for row in rows},
        "rows": rows,
        "test_photos": len(test.teacher),
        "provenance": provenance(),
    }
    files = {"metrics.parquet": table.getvalue(), "ood_scores.parquet": curves.getvalue()}
    return files, record


def spaces_of(objective: Objective, teacher: Array, student: Array) -> Spaces:
    """See embeddings of the same images the way the student's objective does."""
    mapped = None
    if isinstance(objective, MatchMapped):
        mapped = apply(objective.mapping, teacher)
    with torch.inference_mode():
        head = objective.through_head(torch.from_numpy(student))
    return Spaces(teacher, student, mapped, None if head is None else head.numpy())


def _per_teacher(
    config: RunConfig, dataset: str, latents: dict[str, Array], student: Array
) -> list[dict[str, Any]]:
    """Say how faithful the student is to each of several teachers alone."""
    settings = {"seed": config.training.seed, "resamples": config.evaluation.resamples}
    return [
        {"subject": f"student against {name}", "dataset": dataset, **asdict(row)}
        for name, teacher in latents.items()
        for row in faithfulness(teacher, None, student, **settings)
    ]


def _label(row: dict[str, Any]) -> str:
    return "/".join(part for part in (row["subject"], row["dataset"], row["name"]) if part)


def _measure(
    config: RunConfig, data: Dataset, train: Spaces, test: Spaces, ood: dict[str, Spaces]
) -> list[dict[str, Any]]:
    settings, seed = config.evaluation, config.training.seed
    rows: list[dict[str, Any]] = []

    def add(subject: str, dataset: str, *found: MetricRow) -> None:
        rows.extend({"subject": subject, "dataset": dataset, **asdict(row)} for row in found)

    for name, spaces in {"test": test, **ood}.items():
        add("student", name, *faithfulness(
            spaces.teacher, spaces.mapped, spaces.student, seed=seed, resamples=settings.resamples
        ))  # fmt: skip
        if spaces.head is not None:
            add("head", name, *faithfulness(
                spaces.teacher, spaces.teacher, spaces.head, seed=seed, resamples=settings.resamples
            ))  # fmt: skip

    if None not in data.labels():
        predictions = {}
        bank_labels, labels = _class_numbers(data)
        for (subject, bank), (_, queries) in zip(train.subjects(), test.subjects(), strict=True):
            neighbours = min(settings.knn, len(bank))
            _, predictions[subject] = knn_predict(bank, bank_labels, queries, neighbours)
            right = (predictions[subject] == labels).astype(np.float64)
            add(subject, "test", _mean_row("knn", right, config))
        for subject, found in list(predictions.items())[1:]:
            add(subject, "test", prediction_agreement(
                predictions["teacher"], found, seed=seed, resamples=settings.resamples
            ))  # fmt: skip

    for name, spaces in ood.items():
        scores = {}
        for (subject, bank), (_, inside), (_, outside) in zip(
            train.subjects(), test.subjects(), spaces.subjects(), strict=True
        ):
            pair = [
                nearest_cosine_score(bank, queries, settings.ood_neighbour)
                for queries in (inside, outside)
            ]
            for measure in (auroc, fpr95, fpr95_openood):
                low, high = bootstrap_interval(
                    measure, *pair, seed=seed, resamples=settings.resamples
                )
                value = measure(pair[0], pair[1])
                add(subject, name, MetricRow(measure.__name__, value, low, high, len(pair[1])))
            scores[subject] = np.concatenate(pair)
        for subject, ranked in list(scores.items())[1:]:
            add(subject, name, score_rank_correlation(
                scores["teacher"], ranked, seed=seed, resamples=settings.resamples
            ))  # fmt: skip
    return rows


def _scores(config: RunConfig, train: Spaces, test: Spaces, ood: dict[str, Spaces]) -> pl.DataFrame:
    """Return every OOD score: subject, dataset, score."""
    parts = []
    for dataset, spaces in {"test": test, **ood}.items():
        for (subject, bank), (_, queries) in zip(train.subjects(), spaces.subjects(), strict=True):
            score = nearest_cosine_score(bank, queries, config.evaluation.ood_neighbour)
            parts.append(pl.DataFrame({"score": score}).with_columns(
                subject=pl.lit(subject), dataset=pl.lit(dataset)
            ))  # fmt: skip
    return pl.concat(parts)


def _mean_row(name: str, values: NDArray[np.float64], config: RunConfig) -> MetricRow:
    low, high = bootstrap_interval(
        lambda v: float(np.mean(v)),
        values,
        seed=config.training.seed,
        resamples=config.evaluation.resamples,
    )
    return MetricRow(name, float(values.mean()), low, high, len(values))


def _class_numbers(data: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    train, test = data.labels("train"), data.labels("test")
    names = {name: number for number, name in enumerate(sorted({*train, *test}, key=str))}
    return (
        np.array([names[label] for label in train], np.int64),
        np.array([names[label] for label in test], np.int64),
    )


@torch.inference_mode()
def embed_images(
    config: RunConfig, student: Student, source: ViewSource, advance: Advance
) -> Array:
    """Embed the evaluation view of a list of images with the student: (N, K)."""
    device = torch.device(choose_device(config.runtime.device))
    place(student, device)
    parts = []
    size = config.student.image_size
    for start in range(0, len(source.keys), _BATCH):
        rows = range(start, min(start + _BATCH, len(source.keys)))
        pixels = np.concatenate([source.views(row, range(1), size) for row in rows])
        parts.append(student(to_float(torch.from_numpy(pixels), device)).cpu().numpy())
        advance(len(rows))
    return np.concatenate(parts)
