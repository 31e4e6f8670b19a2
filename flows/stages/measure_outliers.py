"""Whether teacher and student know which photos are of another distribution.

Legend: ``N`` images.
"""

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
        by_set = scores_of(settings, score, train, sets, classes)
        inside = by_set.pop("test")
        for name, outside in by_set.items():
            together = {who: np.concatenate([inside[who], outside[who]]) for who in inside}
            for who, scores in outside.items():
                # What scores drawn at random would give.
                measures = {auroc: 0.5}
                if is_chosen:
                    share = len(scores) / len(together[who])
                    measures |= {aupr: share, fpr95: 0.95, fpr95_openood: 0.95}
                for measure, chance in measures.items():
                    label = measure.__name__ if is_chosen else f"{measure.__name__}_{score}"
                    interval = bootstrap_interval(measure, inside[who], scores, **drawn)
                    value = measure(inside[who], scores)
                    yield who, name, MetricRow(label, value, *interval, len(scores), chance)
            for who, ranked in list(together.items())[1:] if is_chosen else ():
                yield who, name, score_rank_correlation(together["teacher"], ranked, **drawn)


def scores_of(
    settings: EvaluationConfig,
    score: str,
    train: Spaces,
    sets: dict[str, Spaces],
    classes: Classes | None,
) -> dict[str, dict[str, Scores]]:
    """Return the OOD scores of the images of each set, (N,), by who sees them."""
    labels = None if classes is None else classes.train
    found: dict[str, dict[str, Scores]] = {name: {} for name in sets}
    for who, bank in train.subjects():
        scorer = SCORES[score].fit(Bank(bank, labels, min(settings.ood_neighbour, len(bank))))
        for name, spaces in sets.items():
            found[name][who] = scorer(dict(spaces.subjects())[who])
    return found


def ood_scores(
    settings: EvaluationConfig, train: Spaces, sets: dict[str, Spaces], classes: Classes | None
) -> pl.DataFrame:
    """Return every score of the kind that was chosen: score, subject, dataset."""
    by_set = scores_of(settings, settings.ood_score, train, sets, classes)
    return pl.concat(
        pl.DataFrame({"score": scores}).with_columns(subject=pl.lit(who), dataset=pl.lit(name))
        for name, by_subject in by_set.items()
        for who, scores in by_subject.items()
    )


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
