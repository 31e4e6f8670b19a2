"""Stage 5: how faithful the student is, on photos that were never trained on.

Legend: ``N`` images, ``D`` teacher width, ``K`` student width.
"""

import io
from dataclasses import asdict
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
from flows.stages.latents import evaluation_latents, latents_by_teacher
from flows.stages.measure import METHOD, Spaces, measure, ood_scores, spaces_of
from flows.stages.results import Evaluated, Extracted, Indexed, Mapped, Trained
from flows.stages.students import load_objective, load_student
from flows.stages.teacher import choose_device
from storage.identity import make_id
from storage.root import Root
from tintem_core.backbones import place
from tintem_core.faithfulness import faithfulness
from tintem_core.measures import Draws
from tintem_core.neighbours import near_copies
from tintem_core.students import Student
from tintem_core.teachers import to_float

Array = NDArray[np.float32]
_BATCH = 64


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
        "method": METHOD,
    }
    if None in indexed.data.labels() and indexed.data.is_labelled:
        # Releases before 0.2 scored no such photos by their labels.
        spec["labelled"] = "some"
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
    rows = measure(config, indexed.data, train, test, ood)
    near = near_copies(train.teacher, test.teacher)
    _tell(indexed.data, near)
    if extracted.others:
        for dataset in indexed.datasets():
            is_data = dataset is indexed.data
            student_NK = (test if is_data else ood[dataset.name]).student
            split = "test" if is_data else None
            latents = latents_by_teacher(root, extracted, dataset, split, config.teacher.model)
            name = "test" if is_data else dataset.name
            rows += _per_teacher(config, name, latents, student_NK)
    table = io.BytesIO()
    # Whether a measure knows its chance is not told by the first rows.
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(table)
    curves = io.BytesIO()
    ood_scores(config, train, test, ood).write_parquet(curves)
    record = {
        "spec": spec,
        "metrics": {_label(row): row["value"] for row in rows},
        "rows": rows,
        "test_photos": len(test.teacher),
        "near_copies": near,
        "provenance": provenance(),
    }
    files = {"metrics.parquet": table.getvalue(), "ood_scores.parquet": curves.getvalue()}
    return files, record


def _tell(data: Dataset, near: int) -> None:
    """Say what the scores are over, and how far they may be flattered."""
    labels = data.labels("test")
    labelled = sum(label is not None for label in labels)
    if data.is_labelled and labelled < len(labels):
        reporter().note(
            f"scores by labels are over the {labelled:,} of {len(labels):,} test photos of "
            f"{data.name} that have one"
        )
    if near:
        reporter().note(
            f"{near:,} of {len(labels):,} test photos of {data.name} look to the teacher nearly "
            "the same as a train photo: copies that were saved anew flatter every score. Name the "
            "splits in the source if they matter"
        )


def _per_teacher(
    config: RunConfig, dataset: str, latents: dict[str, Array], student: Array
) -> list[dict[str, Any]]:
    """Say how faithful the student is to each of several teachers alone."""
    settings: Draws = {
        "seed": config.training.seed,
        "resamples": config.evaluation.resamples,
    }
    return [
        {"subject": f"student against {name}", "dataset": dataset, **asdict(row)}
        for name, teacher in latents.items()
        for row in faithfulness(teacher, None, student, **settings)
    ]


def _label(row: dict[str, Any]) -> str:
    return "/".join(part for part in (row["subject"], row["dataset"], row["name"]) if part)


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
