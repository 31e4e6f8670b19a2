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

MOST_GROUPS = 50
_MEASURES = ("knn", "teacher_knn", "faithfulness", "false_alarms")
_JUDGES = ("knn", "faithfulness", "false_alarms")


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


def per_photo(
    settings: EvaluationConfig,
    train: Spaces,
    test: Spaces,
    classes: Classes | None,
    strange: NDArray[np.bool_],
) -> pl.DataFrame:
    """Return what is measured of every test photo by itself, in order.

    ``label``; ``knn`` and ``teacher_knn``: whether student and teacher find it, null where the
    photo has none; ``faithfulness``: cosine of the student to what it was asked for, null where it
    was asked for nothing; ``false_alarms``: whether it is taken for strange.

    Args:
        settings: how it is measured.
        train, test: embeddings.
        classes: of the photos; None where they have none.
        strange: which test photos the student takes for out of distribution, shape (N,).
    """
    asked = test.asked()
    cosines = np.full(len(strange), np.nan) if asked is None else row_cosines(asked[1], asked[2])
    nothing = pl.Series([None] * len(strange), dtype=pl.Boolean)
    right = {"knn": nothing, "teacher_knn": nothing}
    names: list[str | None] = [None] * len(strange)
    if classes is not None:
        told = classes.train >= 0
        bank_labels, labels = classes.train[told], classes.of["test"]
        names = [classes.names[number] if number >= 0 else None for number in labels]
        for who, bank, queries in (
            ("knn", train.student, test.student),
            ("teacher_knn", train.teacher, test.teacher),
        ):
            found = pl.Series(_voted(settings, bank[told], bank_labels, queries) == labels)
            right[who] = found.set(pl.Series(labels < 0), None)
    return pl.DataFrame({
        "label": pl.Series(names, dtype=pl.String),
        **right,
        "faithfulness": pl.Series(cosines, nan_to_null=True),
        "false_alarms": strange,
    })  # fmt: skip


def per_value(photos: pl.DataFrame, values: pl.Series) -> pl.DataFrame:
    """Return a row for every value of the photos, the worst first.

    ``value``; ``n``; ``labelled``: how many of them have a label; the means of the measures that
    :func:`per_photo` has. Worst by accuracy; without labels by faithfulness; else by false alarms.
    """
    table = photos.with_columns(value=values).drop_nulls("value").group_by("value")
    found = table.agg(
        pl.len().alias("n"), pl.col("knn").count().alias("labelled"), pl.col(_MEASURES).mean()
    )
    by = next(name for name in _JUDGES if found[name].count())
    return found.sort(by, "value", descending=[by == "false_alarms", False], nulls_last=True)


def per_class(photos: pl.DataFrame) -> pl.DataFrame:
    """Return :func:`per_value` of the labels, as ``label``."""
    return per_value(photos, photos["label"]).drop("labelled").rename({"value": "label"})


def per_group(photos: pl.DataFrame, groups: pl.DataFrame) -> pl.DataFrame:
    """Return :func:`per_value` of every column of groups, below its name as ``column``.

    Of a column with more than ``MOST_GROUPS`` values, those of most photos.

    Args:
        photos: see :func:`per_photo`.
        groups: what is written beside them, in the same order; null: in no group.
    """
    tables = []
    for values in groups:
        table = per_value(photos, values)
        largest = table.sort("n", "value", descending=[True, False])["value"].head(MOST_GROUPS)
        kept = table.filter(pl.col("value").is_in(largest.implode()))
        tables.append(kept.select(pl.lit(values.name).alias("column"), pl.all()))
    return pl.concat(tables)


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
