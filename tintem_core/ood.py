"""Out-of-distribution detection: scores, AUROC, both definitions of FPR95, intervals.

A score is high for images that look in-distribution (ID) and low for outliers (OOD).
Legend: N bank images, M queries, K width. Arrays are NumPy.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError, ShapeError
from tintem_core.neighbours import nearest

Scores = NDArray[np.floating]


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


def bootstrap_interval(
    fn: Callable[..., float],
    *arrays: NDArray[np.generic],
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
    paired: bool = False,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `fn(*arrays)`, resampling images.

    Args:
        fn: a statistic of the arrays.
        arrays: first axis is images. Each is resampled on its own (ID and OOD images), or all
            with the same draw when `paired` (predictions and labels of the same images).
        seed: of the draws.
        resamples: number of draws.
        level: covered share.
        paired: row i of every array is the same image.

    Returns:
        (low, high).

    Raises:
        ShapeError: `paired` arrays of different length.
        DegenerateError: an empty array, or `fn` gave NaN.
    """
    sizes = [len(a) for a in arrays]
    if not sizes or min(sizes) == 0:
        raise DegenerateError("A bootstrap needs at least one image on every side.")
    if paired and len(set(sizes)) > 1:
        raise ShapeError(f"Paired arrays hold different numbers of images: {sizes}.")
    rng = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for i in range(resamples):
        if paired:
            rows = rng.integers(0, sizes[0], sizes[0])
            picked = [a[rows] for a in arrays]
        else:
            picked = [a[rng.integers(0, n, n)] for a, n in zip(arrays, sizes, strict=True)]
        draws[i] = fn(*picked)
    return percentile_interval(draws, level)


def percentile_interval(draws: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """The central share `level` of the draws; DegenerateError if a draw is not finite."""
    if not np.isfinite(draws).all():
        raise DegenerateError(
            f"{np.count_nonzero(~np.isfinite(draws))} of {len(draws)} bootstrap resamples leave "
            "the metric undefined; use more images."
        )
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


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
