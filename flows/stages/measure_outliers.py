"""Whether teacher and student know which photos are of another distribution.

Legend: ``N`` images.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.config.evaluation import EvaluationConfig
from flows.stages.spaces import Classes, Found, Spaces
from tintem_core.evaluation.bootstrap import Draws, MetricRow, bootstrap_interval
from tintem_core.evaluation.faithfulness import score_rank_correlation
from tintem_core.evaluation.ood import (
    SCORES,
    Bank,
    aupr,
    auroc,
    fpr95,
    fpr95_openood,
    threshold,
)

Scores = NDArray[np.float32]


def outlier_rows(
    settings: EvaluationConfig,
    train: Spaces,
    sets: dict[str, Spaces],
    classes: Classes | None,
    drawn: Draws,
) -> Found:
    """Measure every OOD set against the test photos; the chosen score in full, others by AUROC."""
    for score, kind in SCORES.items():
        if kind.needs_labels and classes is None:
            continue
        is_chosen = score == settings.ood_score
        inside = dict(subject_scores(settings, score, train, sets["test"], classes))
        for name, spaces in list(sets.items())[1:]:
            together = {}
            for who, outside in subject_scores(settings, score, train, spaces, classes):
                pair = inside[who], outside
                together[who] = np.concatenate(pair)
                # What scores drawn at random would give.
                measures = {auroc: 0.5}
                if is_chosen:
                    share = len(outside) / len(together[who])
                    measures |= {aupr: share, fpr95: 0.95, fpr95_openood: 0.95}
                for measure, chance in measures.items():
                    label = measure.__name__ if is_chosen else f"{measure.__name__}_{score}"
                    interval = bootstrap_interval(measure, *pair, **drawn)
                    row = MetricRow(label, measure(*pair), *interval, len(outside), chance)
                    yield who, name, row
            for who, ranked in list(together.items())[1:] if is_chosen else ():
                yield who, name, score_rank_correlation(together["teacher"], ranked, **drawn)


def subject_scores(
    settings: EvaluationConfig, score: str, train: Spaces, spaces: Spaces, classes: Classes | None
) -> Iterator[tuple[str, Scores]]:
    """Yield the OOD scores of images, (N,), as teacher, student and head see them."""
    labels = None if classes is None else classes.train
    for (who, bank), (_, queries) in zip(train.subjects(), spaces.subjects(), strict=True):
        found = Bank(bank, labels, min(settings.ood_neighbour, len(bank)))
        yield who, SCORES[score].score(found, queries)


def ood_scores(
    settings: EvaluationConfig, train: Spaces, sets: dict[str, Spaces], classes: Classes | None
) -> pl.DataFrame:
    """Return every score of the kind that was chosen: score, subject, dataset."""
    parts = [
        pl.DataFrame({"score": scores}).with_columns(subject=pl.lit(who), dataset=pl.lit(name))
        for name, spaces in sets.items()
        for who, scores in subject_scores(settings, settings.ood_score, train, spaces, classes)
    ]
    return pl.concat(parts)


def thresholds(settings: EvaluationConfig, scores: pl.DataFrame) -> dict[str, float]:
    """Return the score below which an image counts as strange, by subject.

    It takes at most ``false_alarm_rate`` of the test photos for strange.

    Args:
        settings: the rate.
        scores: see :func:`ood_scores`.
    """
    test = scores.filter(pl.col("dataset") == "test")
    return {
        str(who): threshold(own["score"].to_numpy(), settings.false_alarm_rate)
        for (who,), own in test.group_by("subject", maintain_order=True)
    }
