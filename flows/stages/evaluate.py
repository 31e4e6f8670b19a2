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

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.data.dataset import Dataset
from flows.data.features import evaluation_latents, latents_by_teacher
from flows.data.rendering import ViewSource, eval_source
from flows.provenance import provenance
from flows.reporting.base import Advance, reporter
from flows.stages.ensure import ensure_artifact
from flows.stages.measure import METHOD, Spaces, measure, ood_scores, spaces_of
from flows.stages.models import load_objective, load_student
from flows.stages.results import Evaluated, Indexed, Mapped, Trained
from storage.identity import make_id
from storage.root import Root
from tintem_core.evaluation.bootstrap import Draws
from tintem_core.evaluation.faithfulness import faithfulness
from tintem_core.models.device import choose_device, place
from tintem_core.models.student import Student
from tintem_core.models.teacher import to_float

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
    evaluation_id = make_id(f"{config.student.model}-{config.data.name}", spec)
    record, reused = ensure_artifact(
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
        "provenance": provenance(),
    }
    files = {"metrics.parquet": table.getvalue(), "ood_scores.parquet": curves.getvalue()}
    return files, record


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
