"""Out-of-distribution detection: scores, AUROC, both definitions of FPR95, intervals.

A score is high for images that look in-distribution (ID) and low for outliers (OOD).
Legend: N bank images, M queries, K width. Arrays are NumPy.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError
from tintem_core.evaluation.neighbours import nearest

Scores = NDArray[np.floating]
Score = Callable[[NDArray[np.floating], NDArray[np.floating], int], NDArray[np.float32]]
"""(bank (N, K), queries (M, K), k) to (M,), the higher the more in-distribution."""


def nearest_cosine_score(
    bank_NK: NDArray[np.floating], query_MK: NDArray[np.floating], k: int = 1
) -> NDArray[np.float32]:
    """Cosine to the k-th nearest train embedding, the higher the more in-distribution.

    k = 1 is the paper's score; k > 1 is deep nearest neighbours (Sun et al., ICML 2022).

    Returns:
        float32, shape (M,).

    Raises:
        InputError, ShapeError, DegenerateError: as `neighbours.nearest`.
    """
    return nearest(bank_NK, query_MK, k)[0][:, k - 1]


SCORES: dict[str, Score] = {"nearest-cosine": nearest_cosine_score}
"""What tells an outlier, by the name that evaluation.ood_score has."""


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
