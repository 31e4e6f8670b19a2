"""What the labels of the photos tell of teacher and student.

Legend: ``N`` images, ``K`` student width.
"""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.config.evaluation import EvaluationConfig
from flows.stages.spaces import Array, Classes, Found, Spaces
from tintem_core.evaluation.bootstrap import Draws, MetricRow, mean_row
from tintem_core.evaluation.cosine import row_cosines
from tintem_core.evaluation.faithfulness import prediction_agreement
from tintem_core.evaluation.few_shot import few_shot
from tintem_core.evaluation.neighbours import knn_predict
from tintem_core.evaluation.probes import (
    LinearProbeConfig,
    LogisticConfig,
    Probe,
    fit_linear_probe,
    fit_logistic,
)
from tintem_core.evaluation.shared_space import shared_knn


def class_rows(
    settings: EvaluationConfig,
    train: Spaces,
    sets: dict[str, Spaces],
    classes: Classes,
    drawn: Draws,
) -> Found:
    """Measure accuracies over the photos that have labels, on each set whose labels are known."""
    told_train = classes.train >= 0
    bank_labels = classes.train[told_train]
    usual = np.bincount(bank_labels).argmax()
    for name, numbers in classes.of.items():
        told = numbers >= 0
        labels = numbers[told]
        if not told.any():
            continue
        # What the most frequent class of the training photos reaches as an answer to all.
        chance = float(np.mean(labels == usual))
        predictions = {}
        for (who, bank), (_, queries) in zip(train.subjects(), sets[name].subjects(), strict=True):
            bank, queries = bank[told_train], queries[told]
            predictions[who] = _voted(settings, bank, bank_labels, queries)
            right = {"knn": predictions[who] == labels}
            for probe in settings.probes:
                fitted = _fitted(probe, bank, bank_labels, drawn["seed"])
                right[f"{probe}_probe"] = fitted.predict(queries) == labels
            for metric, found in right.items():
                yield who, name, mean_row(metric, found, **drawn, chance=chance)
            yield who, name, _over_classes(right["knn"], labels, drawn)
            for row in few_shot(bank, bank_labels, queries, labels, **drawn, chance=chance):
                yield who, name, row
        for who, given in list(predictions.items())[1:]:
            yield who, name, prediction_agreement(predictions["teacher"], given, **drawn)
    known, asked = train.asked(), sets["test"].asked()
    if known is not None and asked is not None:
        told = classes.of["test"] >= 0
        row = shared_knn(
            known[1][told_train],
            bank_labels,
            asked[2][told],
            classes.of["test"][told],
            settings.knn,
            **drawn,
        )
        yield asked[0], "test", row


def per_class(
    settings: EvaluationConfig,
    train: Spaces,
    test: Spaces,
    classes: Classes,
    strange: NDArray[np.bool_],
) -> pl.DataFrame:
    """Return a row for every class of the test photos, the one with the lowest accuracy first.

    ``label``; ``n``; ``knn`` and ``teacher_knn``: accuracy of student and teacher;
    ``faithfulness``: mean cosine of the student to what it was asked for, null where it was asked
    for nothing; ``false_alarms``: share of the photos taken for strange.

    Args:
        settings: how it is measured.
        train, test: embeddings.
        classes: of the photos.
        strange: which test photos the student takes for out of distribution, shape (N,).
    """
    told = classes.train >= 0
    bank_labels, labels = classes.train[told], classes.of["test"]
    asked = test.asked()
    cosines = np.full(len(labels), np.nan) if asked is None else row_cosines(asked[1], asked[2])
    table = pl.DataFrame({
        "label": [classes.names[number] if number >= 0 else None for number in labels],
        "knn": _voted(settings, train.student[told], bank_labels, test.student) == labels,
        "teacher_knn": _voted(settings, train.teacher[told], bank_labels, test.teacher) == labels,
        "faithfulness": pl.Series(cosines, nan_to_null=True),
        "false_alarms": strange,
    })  # fmt: skip
    columns = ("knn", "teacher_knn", "faithfulness", "false_alarms")
    grouped = table.drop_nulls("label").group_by("label")
    return grouped.agg(pl.len().alias("n"), pl.col(columns).mean()).sort("knn", "label")


def _voted(
    settings: EvaluationConfig, bank: Array, labels: NDArray[np.int64], queries: Array
) -> NDArray[np.int64]:
    return knn_predict(bank, labels, queries, min(settings.knn, len(bank)))[1]


def _over_classes(right: NDArray[np.bool_], labels: NDArray[np.int64], drawn: Draws) -> MetricRow:
    """The accuracy as a mean over classes: each image weighs as its class is rare."""
    _, members, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights = len(labels) / (len(counts) * counts[members])
    chance = 1 / len(counts)
    return mean_row("knn_over_classes", right * weights, **drawn, chance=chance)


def _fitted(probe: str, bank: Array, labels: NDArray[np.int64], seed: int) -> Probe:
    if probe == "linear":
        return fit_linear_probe(bank, labels, LinearProbeConfig(seed=seed))
    return fit_logistic(bank, labels, LogisticConfig(seed=seed))
