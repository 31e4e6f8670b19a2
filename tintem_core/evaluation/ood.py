"""Out-of-distribution detection: scores, AUROC, both definitions of FPR95, intervals.

A score is high for images that look in-distribution (ID) and low for outliers (OOD).
Legend: N bank images, M queries, K width. Arrays are NumPy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError, InputError
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.evaluation.neighbours import nearest

Scores = NDArray[np.floating]


@dataclass(frozen=True)
class Bank:
    """The train images that queries are compared with.

    embeddings: shape (N, K). labels: classes, shape (N,), -1 where an image has none; None: there
    are no classes. k: which nearest neighbour counts.
    """

    embeddings: NDArray[np.floating]
    labels: NDArray[np.integer] | None = None
    k: int = 1


Scorer = Callable[[NDArray[np.floating]], NDArray[np.float32]]
"""Queries (M, K) to scores (M,), the higher the more in-distribution."""


@dataclass(frozen=True)
class OODScore:
    """A score by name: what it learns from a bank scores any queries."""

    fit: Callable[[Bank], Scorer]
    needs_labels: bool = False


def nearest_cosine(bank: Bank) -> Scorer:
    """Cosine to the k-th nearest train embedding.

    k = 1 is the paper's score; k > 1 is deep nearest neighbours (Sun et al., ICML 2022).

    Raises:
        InputError, ShapeError, DegenerateError: when it scores, as `neighbours.nearest`.
    """
    return lambda query_MK: nearest(bank.embeddings, query_MK, bank.k)[0][:, bank.k - 1]


def mahalanobis(bank: Bank) -> Scorer:
    """Minus the squared Mahalanobis distance to the nearest class mean, of unit rows.

    All classes share one covariance (Lee et al., NeurIPS 2018). Without labels there is one mean.
    The covariance is shrunk after Ledoit and Wolf (2004): there may be fewer images than K.

    Raises:
        ShapeError, DegenerateError: as `cosine.unit_rows`.
    """
    squared = _squared_distances(*_labelled(bank))
    return lambda query_MK: -squared(unit_rows(query_MK)).min(axis=1)


def relative_mahalanobis(bank: Bank) -> Scorer:
    """The squared distance to one mean of all images less that to the nearest class mean.

    Ren et al., "A simple fix to Mahalanobis distance", arXiv 2106.09022.

    Raises:
        InputError: there are no labels.
        ShapeError, DegenerateError: as `cosine.unit_rows`.
    """
    if bank.labels is None:
        raise InputError(
            "relative-mahalanobis compares classes, and the train images have no labels: choose "
            "another evaluation.ood_score."
        )
    rows, labels = _labelled(bank)
    to_all = _squared_distances(rows, np.zeros(len(rows), np.int64))
    to_classes = _squared_distances(rows, labels)

    def score(query_MK: NDArray[np.floating]) -> NDArray[np.float32]:
        query_MK = unit_rows(query_MK)
        return to_all(query_MK)[:, 0] - to_classes(query_MK).min(axis=1)

    return score


def _labelled(bank: Bank) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    rows = unit_rows(bank.embeddings)
    if bank.labels is None:
        return rows, np.zeros(len(rows), np.int64)
    told = bank.labels >= 0
    return rows[told], bank.labels[told]


def _squared_distances(rows_NK: NDArray[np.floating], labels_N: NDArray[np.integer]) -> Scorer:
    """Squared Mahalanobis distances of queries to class means: (M, K) to (M, C)."""
    # Here, because every config names a score.
    from sklearn.covariance import ledoit_wolf

    classes, members_N = np.unique(labels_N, return_inverse=True)
    means_CK = np.stack(
        [rows_NK[members_N == c].mean(axis=0, dtype=np.float64) for c in range(len(classes))]
    )
    covariance_KK, _ = ledoit_wolf(rows_NK - means_CK[members_N], assume_centered=True)
    if not np.trace(covariance_KK) > 0:
        raise DegenerateError(
            "All train embeddings of a class are the same: no distance has a scale."
        )
    factor_KK = np.linalg.cholesky(np.linalg.inv(covariance_KK))
    white_CK = means_CK @ factor_KK

    def squared(query_MK: NDArray[np.floating]) -> NDArray[np.float32]:
        white_MK = query_MK @ factor_KK
        lengths_M, lengths_C = ((rows**2).sum(axis=1) for rows in (white_MK, white_CK))
        return (lengths_M[:, None] + lengths_C - 2 * white_MK @ white_CK.T).astype(np.float32)

    return squared


SCORES = {
    "nearest-cosine": OODScore(nearest_cosine),
    "mahalanobis": OODScore(mahalanobis),
    "relative-mahalanobis": OODScore(relative_mahalanobis, needs_labels=True),
}
"""What tells an outlier, by the name that evaluation.ood_score has."""


def k_centre(bank_NK: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Choose rows that cover a bank: each next one is the farthest, by cosine, from those before.

    The greedy 2-approximation of the k-centre problem (Gonzalez, 1985); the first row is the one
    nearest to the mean. O(N count K) time, O(N) memory beside the bank.

    Args:
        bank_NK: shape (N, K).
        count: rows wanted; all where there are no more.

    Returns:
        Row numbers, shape (min(count, N),), in the order of the choice.

    Raises:
        ShapeError, DegenerateError: as `cosine.unit_rows`.
    """
    rows = unit_rows(bank_NK, "the bank")
    chosen = [int((rows @ rows.mean(axis=0)).argmax())]
    nearest_N = np.full(len(rows), -np.inf, np.float32)
    while len(chosen) < min(count, len(rows)):
        np.maximum(nearest_N, rows @ rows[chosen[-1]], out=nearest_N)
        # Never twice, however many photos are the same.
        nearest_N[chosen] = np.inf
        chosen.append(int(nearest_N.argmin()))
    return np.array(chosen)


def auroc(id_scores: Scores, ood_scores: Scores) -> float:
    """Probability that an ID image scores above an OOD image, a tie counting one half.

    Raises:
        DegenerateError: a side is empty or holds a value that is not finite.
    """
    ours, theirs = _checked(id_scores, ood_scores)
    ranked = np.sort(theirs)
    below = np.searchsorted(ranked, ours, "left")
    not_above = np.searchsorted(ranked, ours, "right")
    return float((below.sum() + not_above.sum()) / (2 * len(ours) * len(theirs)))


def aupr(id_scores: Scores, ood_scores: Scores) -> float:
    """Average precision with the OOD images as the positive class (OpenOOD's AUPR-OUT).

    Chance is the share of OOD images.
    """
    ours, theirs = _checked(id_scores, ood_scores)
    ranked = np.sort(theirs)
    # Of every OOD image: what is rejected by the threshold that just rejects it.
    right = np.searchsorted(ranked, ranked, "right")
    wrong = np.searchsorted(np.sort(ours), ranked, "right")
    return float(np.mean(right / (right + wrong)))


def threshold(id_scores: Scores, false_alarm_rate: float) -> float:
    """The highest threshold that rejects at most this share of the ID images.

    Rejected means score < threshold.
    """
    ours, _ = _checked(id_scores, id_scores)
    return float(np.sort(ours)[math.floor(false_alarm_rate * len(ours) + 1e-9)])


def fpr95(id_scores: Scores, ood_scores: Scores) -> float:
    """Share of OOD images accepted when the threshold accepts at least 95 % of the ID images.

    The usual definition, and the paper's. Accepted means score >= threshold.
    """
    ours, theirs = _checked(id_scores, ood_scores)
    threshold = np.sort(ours)[::-1][_rank95(len(ours))]
    return float(np.mean(theirs >= threshold))


def fpr95_openood(id_scores: Scores, ood_scores: Scores) -> float:
    """Share of ID images rejected when the threshold rejects at least 95 % of the OOD images.

    OpenOOD's definition: OOD is the positive class. Rejected means score <= threshold.
    """
    ours, theirs = _checked(id_scores, ood_scores)
    threshold = np.sort(theirs)[_rank95(len(theirs))]
    return float(np.mean(ours <= threshold))


def _rank95(count: int) -> int:
    # 0.95 * 20 is 19.000000000000004 on some platforms; a whole number must stay one.
    return math.ceil(0.95 * count - 1e-9) - 1


def _checked(id_scores: Scores, ood_scores: Scores) -> tuple[Scores, Scores]:
    for name, scores in (("ID", id_scores), ("OOD", ood_scores)):
        if scores.ndim != 1 or scores.size == 0:
            raise DegenerateError(
                f"{name} scores have shape {scores.shape}; at least one is needed."
            )
        if not np.isfinite(scores).all():
            raise DegenerateError(f"Some {name} scores are not finite; mend the embeddings first.")
    return id_scores, ood_scores
