"""What is measured of the embeddings of teacher, mapped teacher and student.

Legend: ``N`` images, ``D`` teacher width, ``K`` student width.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from flows.config.run import RunConfig
from flows.data.dataset import Dataset
from flows.stages.map import apply
from tintem_core.evaluation.bootstrap import Draws, MetricRow, bootstrap_interval, mean_row
from tintem_core.evaluation.faithfulness import (
    faithfulness,
    pearson_over_sets,
    prediction_agreement,
    score_rank_correlation,
)
from tintem_core.evaluation.metrics import ALL
from tintem_core.evaluation.neighbours import knn_predict
from tintem_core.evaluation.ood import SCORES, auroc, fpr95, fpr95_openood
from tintem_core.evaluation.probes import (
    LinearProbeConfig,
    LogisticConfig,
    Probe,
    fit_linear_probe,
    fit_logistic,
)
from tintem_core.evaluation.shared_space import shared_knn, shared_space
from tintem_core.evaluation.to_mapped import constant_rows, mean_direction
from tintem_core.objectives import Objective

Array = NDArray[np.float32]


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

    def asked(self) -> tuple[str, Array, Array] | None:
        """Who answers in a space of the teacher's, what it is asked for, and what it answers."""
        if self.mapped is not None:
            return "student", self.mapped, self.student
        return None if self.head is None else ("head", self.teacher, self.head)


def spaces_of(objective: Objective, teacher: Array, student: Array) -> Spaces:
    """See embeddings of the same images the way the student's objective does."""
    mapped = None if objective.mapping is None else apply(objective.mapping, teacher)
    with torch.inference_mode():
        head = objective.through_head(torch.from_numpy(student))
    return Spaces(teacher, student, mapped, None if head is None else head.numpy())


def measure(
    config: RunConfig, data: Dataset, train: Spaces, test: Spaces, ood: dict[str, Spaces]
) -> list[dict[str, Any]]:
    """Measure a student: rows of subject, dataset and the fields of a MetricRow.

    Args:
        config: the run.
        data: what train and test are of.
        train, test, ood: embeddings of the photos, OOD sets by name.
    """
    settings = config.evaluation
    drawn: Draws = {"seed": config.training.seed, "resamples": settings.resamples}
    rows: list[dict[str, Any]] = []

    def add(subject: str, dataset: str, *found: MetricRow) -> None:
        rows.extend({"subject": subject, "dataset": dataset, **asdict(row)} for row in found)

    known = train.asked()
    centre = None if known is None else mean_direction(known[1])
    sets = {"test": test, **ood}
    for name, spaces in sets.items():
        add("student", name, *faithfulness(
            spaces.teacher, spaces.mapped, spaces.student, centre_K=centre, **drawn
        ))  # fmt: skip
        if spaces.head is not None:
            add("head", name, *faithfulness(
                spaces.teacher, spaces.teacher, spaces.head, centre_K=centre, **drawn
            ))  # fmt: skip
        if (asked := spaces.asked()) is not None and centre is not None:
            add("constant", name, *constant_rows(asked[1], centre, **drawn))
    if ood:
        (_, teacher), *others = (
            (parts[0][0], np.concatenate([embeddings for _, embeddings in parts]))
            for parts in zip(*(spaces.subjects() for spaces in sets.values()), strict=True)
        )
        for subject, student in others:
            add(subject, ALL, pearson_over_sets(teacher, student, **drawn))
    if (asked := test.asked()) is not None:
        subject, index, queries = asked
        add(subject, "test", *shared_space(test.teacher, index, queries, **drawn))

    if data.is_labelled:
        predictions = {}
        # Over the photos that have labels.
        bank_labels, labels = _class_numbers(data)
        told_train, told_test = bank_labels >= 0, labels >= 0
        bank_labels, labels = bank_labels[told_train], labels[told_test]
        # What the most frequent class of the training photos reaches as an answer to all.
        chance = float(np.mean(labels == np.bincount(bank_labels).argmax()))
        for (subject, bank), (_, queries) in zip(train.subjects(), test.subjects(), strict=True):
            bank, queries = bank[told_train], queries[told_test]
            neighbours = min(settings.knn, len(bank))
            _, predictions[subject] = knn_predict(bank, bank_labels, queries, neighbours)
            right = {"knn": predictions[subject] == labels}
            for probe in settings.probes:
                fitted = _fitted(probe, bank, bank_labels, config.training.seed)
                right[f"{probe}_probe"] = fitted.predict(queries) == labels
            for name, found in right.items():
                add(subject, "test", mean_row(name, found, **drawn, chance=chance))
        for subject, given in list(predictions.items())[1:]:
            add(subject, "test", prediction_agreement(predictions["teacher"], given, **drawn))
        if known is not None and asked is not None:
            subject, _, queries = asked
            add(subject, "test", shared_knn(
                known[1][told_train], bank_labels, queries[told_test], labels, settings.knn, **drawn
            ))  # fmt: skip

    for name, spaces in ood.items():
        scores = {}
        for (subject, bank), (_, inside), (_, outside) in zip(
            train.subjects(), test.subjects(), spaces.subjects(), strict=True
        ):
            pair = [
                SCORES[settings.ood_score](bank, queries, settings.ood_neighbour)
                for queries in (inside, outside)
            ]
            for score in (auroc, fpr95, fpr95_openood):
                low, high = bootstrap_interval(score, *pair, **drawn)
                value = score(pair[0], pair[1])
                add(subject, name, MetricRow(score.__name__, value, low, high, len(pair[1])))
            scores[subject] = np.concatenate(pair)
        for subject, ranked in list(scores.items())[1:]:
            add(subject, name, score_rank_correlation(scores["teacher"], ranked, **drawn))
    return rows


def ood_scores(
    config: RunConfig, train: Spaces, test: Spaces, ood: dict[str, Spaces]
) -> pl.DataFrame:
    """Return every OOD score: subject, dataset, score."""
    parts = []
    for dataset, spaces in {"test": test, **ood}.items():
        for (subject, bank), (_, queries) in zip(train.subjects(), spaces.subjects(), strict=True):
            settings = config.evaluation
            score = SCORES[settings.ood_score](bank, queries, settings.ood_neighbour)
            parts.append(pl.DataFrame({"score": score}).with_columns(
                subject=pl.lit(subject), dataset=pl.lit(dataset)
            ))  # fmt: skip
    return pl.concat(parts)


def _fitted(probe: str, bank: Array, labels: NDArray[np.int64], seed: int) -> Probe:
    if probe == "linear":
        return fit_linear_probe(bank, labels, LinearProbeConfig(seed=seed))
    return fit_logistic(bank, labels, LogisticConfig(seed=seed))


def _class_numbers(data: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class numbers of both splits, -1 for photos without a label."""
    train, test = data.labels("train"), data.labels("test")
    found = {label for label in (*train, *test) if label is not None}
    names: dict[str | None, int] = {name: number for number, name in enumerate(sorted(found))}
    return (
        np.array([names.get(label, -1) for label in train], np.int64),
        np.array([names.get(label, -1) for label in test], np.int64),
    )
