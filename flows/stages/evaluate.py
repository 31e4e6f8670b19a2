"""Stage 5: how faithful the student is, on photos that were never trained on.

Legend: ``N`` images, ``D`` teacher width, ``K`` student width.
"""

import io
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.data.dataset import Dataset
from flows.data.features import evaluation_latents, latents_by_teacher
from flows.provenance import provenance
from flows.reporting.base import reporter
from flows.reporting.groups import worst_groups
from flows.reporting.measures import Measures, label_of
from flows.stages.cache_requests import student_cache_spec
from flows.stages.ensure import ensure_artifact
from flows.stages.exchange import exchange_rows
from flows.stages.fine_tune import fine_tuned_rows
from flows.stages.ids import artifact_id, evaluation_spec
from flows.stages.measure import as_rows, draws, measure
from flows.stages.measure_classes import per_class, per_group, per_photo
from flows.stages.measure_corruptions import corrupted_photos, corruption_rows, corruption_table
from flows.stages.measure_masks import mask_rows
from flows.stages.measure_outliers import ood_scores, thresholds
from flows.stages.models import (
    load_embedder,
    load_history,
    load_objective,
    load_teacher,
    load_token_embedder,
)
from flows.stages.results import Evaluated, Indexed, Mapped, Trained
from flows.stages.spaces import Spaces, classes_of, spaces_of
from flows.stages.stored_embeddings import stored_embeddings
from storage.root import Root
from tintem_core.evaluation.faithfulness import faithfulness
from tintem_core.evaluation.limits import Limits, loss_fall
from tintem_core.evaluation.neighbours import near_copies
from tintem_core.evaluation.to_mapped import r2
from tintem_core.models.embedder import Embedder

Array = NDArray[np.float32]


def evaluate(
    config: RunConfig,
    root: Root,
    indexed: Indexed,
    extracted: Extracted,
    mapped: Mapped,
    trained: Trained,
) -> Evaluated:
    """Make sure that the student's evaluation exists."""
    photos, indexed = len(indexed.data.keys("test")), indexed.measured
    if photos > len(indexed.data.keys("test")):
        reporter().note(
            f"measured on {len(indexed.data.keys('test')):,} of {photos:,} test photos of "
            f"{indexed.data.name}"
        )
    spec = evaluation_spec(config, trained.id, extracted, indexed)
    evaluation_id = artifact_id(config, spec)
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
    objective = load_objective(config, root, mapped, trained)
    width = mapped.record["spec"]["width"]

    student = partial(load_embedder, config, root, mapped, trained)

    def spaces(dataset: Dataset, split: str | None) -> Spaces:
        latents = evaluation_latents(root, extracted, dataset, split)
        spec = student_cache_spec(config, trained.id, width, dataset.name)
        (found,) = stored_embeddings(config, root, spec, student, dataset, split)
        return spaces_of(objective, latents, found)

    train = spaces(indexed.data, "train")
    test = spaces(indexed.data, "test")
    sets = {"test": test, **{name: spaces(d, None) for name, d in indexed.ood.items()}}
    settings = config.evaluation
    further = {name: indexed.ood[name] for name in settings.same_classes}
    classes = classes_of(indexed.data, further)
    rows = measure(config, train, sets, classes)
    tables = {}
    if settings.corrupted_photos:
        corrupted = corrupted_photos(
            config, root, indexed.data, trained.id, width, student, objective
        )
        found = corruption_rows(settings.knn, train, corrupted, classes, draws(config))
        rows += as_rows(found)
        tables["corruptions"] = corruption_table(settings.knn, train, corrupted, classes)
    if settings.masks is not None:
        models: dict[str, Callable[[], Embedder]] = {}
        if config.teacher.latents is None:
            models["teacher"] = partial(load_teacher, config.teacher, config.runtime.device)
        models["student"] = partial(load_token_embedder, config, root, mapped, trained)
        rows += as_rows(mask_rows(config, indexed.data, models, draws(config)))
    if settings.index is not None:
        rows += as_rows(
            exchange_rows(config, root, indexed.data, extracted, mapped, trained, settings.index)
        )
    if settings.fine_tune_epochs:
        found = fine_tuned_rows(config, root, indexed, extracted, mapped, trained, draws(config))
        rows += as_rows(found)
    near = near_copies(train.teacher, test.teacher)
    _tell(indexed.data, near)
    limits = _limits(root, trained, train, test, rows)
    if extracted.others:
        for dataset in indexed.datasets():
            is_data = dataset is indexed.data
            name, split = ("test", "test") if is_data else (dataset.name, None)
            student_NK = sets[name].student
            latents = latents_by_teacher(root, extracted, dataset, split, config.teacher.name)
            rows += _per_teacher(config, name, latents, student_NK)
    scores = ood_scores(settings, train, sets, classes)
    cut = thresholds(settings, scores)
    # Whether a measure knows its chance is not told by the first rows.
    tables |= {"metrics": pl.DataFrame(rows, infer_schema_length=None), "ood_scores": scores}
    own = (pl.col("subject") == "student") & (pl.col("dataset") == "test")
    strange = scores.filter(own)["score"].to_numpy() < cut["student"]
    photos = per_photo(settings, train, test, classes, strange)
    if classes is not None:
        tables["classes"] = per_class(photos)
    if indexed.group_columns:
        tables["groups"] = per_group(photos, indexed.groups)
        for said in worst_groups(tables["groups"], Measures(rows)):
            reporter().note(said)
    record = {
        "spec": spec,
        "metrics": {label_of(row): row["value"] for row in rows},
        "rows": rows,
        "test_photos": len(test.teacher),
        "near_copies": near,
        "ood_thresholds": cut,
        "limits": None if limits is None else asdict(limits),
        "provenance": provenance(),
    }
    if indexed.group_columns:
        record["groups"] = {
            values.name: {
                "values": values.drop_nulls().n_unique(),
                "photos_without": values.null_count(),
            }
            for values in indexed.groups
        }
    files = {f"{name}.parquet": _parquet(table) for name, table in tables.items()}
    return files, record


def _limits(
    root: Root, trained: Trained, train: Spaces, test: Spaces, rows: list[dict[str, Any]]
) -> Limits | None:
    """Find out, and say, what limits a student that was asked for something."""
    known, asked = train.asked(), test.asked()
    if known is None or asked is None:
        return None
    angles = [
        row["value"]
        for row in rows
        if (row["subject"], row["dataset"], row["name"]) == ("mapped", "test", "pairwise_pearson")
    ]
    found = Limits(
        angles=angles[0] if angles else None,
        r2_train=r2(known[1], known[2]),
        r2_test=r2(asked[1], asked[2]),
        fall=loss_fall(load_history(root, trained)["loss"].to_list()),
    )
    reporter().note(f"what limits it: {found.sentence()}")
    return found


def _parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


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
            "the same as a train photo: if they are copies, saved anew, they flatter every score. "
            "Splits that the source names keep them apart"
        )


def _per_teacher(
    config: RunConfig, dataset: str, latents: dict[str, Array], student: Array
) -> list[dict[str, Any]]:
    """Say how faithful the student is to each of several teachers alone."""
    return as_rows(
        (f"student against {name}", dataset, row)
        for name, teacher in latents.items()
        for row in faithfulness(teacher, None, student, **draws(config))
    )
