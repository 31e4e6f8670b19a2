"""Drift: whether new images are stranger than images known to be ordinary.

The score of an image is its cosine to the nearest reference embedding (`ood.nearest_cosine`
with k = 1). What is usual is told by known images that are not in the reference, the calibration.

**Strange.** Let c_1 <= ... <= c_n be the calibration's scores and k = floor(0.05 (n + 1)). An
image is strange if its score is below c_k. An image drawn like the known ones is so with a
probability of at most k / (n + 1) <= 5 % (conformal p-values: Vovk, Gammerman and Shafer,
*Algorithmic Learning in a Random World*, 2005; for outliers: Bates et al., *Annals of Statistics*
51, 2023). Fewer than 19 calibration images cannot tell 5 %.

**Chance.** All m new images are compared with the same c_k, so the number X of strange ones among
them is not binomial: it counts exceedances, X ~ BetaBinomial(m, k, n + 1 - k) (Gumbel and
von Schelling, *Annals of Mathematical Statistics* 21, 1950). P(X >= x) is how often new images
without drift give as many; it is exact for any n and m, and two strange photos of two are told
from two hundred of two hundred.

Legend: N reference images, M images scored, D width. Arrays are NumPy.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom, binomtest, ks_2samp

from tintem_core.errors import DegenerateError
from tintem_core.evaluation.bootstrap import bootstrap_interval
from tintem_core.evaluation.neighbours import nearest
from tintem_core.evaluation.ood import auroc

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
USUAL_SHARE = 0.05
FEWEST_KNOWN = round(1 / USUAL_SHARE) - 1
_PIECE_BYTES = 2**26
# A bootstrap of fewer images gives a wider interval, never a narrower one.
_MOST_RESAMPLED = 10_000


@dataclass(frozen=True)
class Rows:
    """A table of embeddings that is read in pieces.

    count, width: N and D; read: rows start..stop of it, any float dtype, (stop - start, D).
    """

    count: int
    width: int
    read: Callable[[int, int], NDArray[np.floating]]


@dataclass(frozen=True)
class Drift:
    """What new images are like, seen from known ones.

    known, new: how many were scored.
    threshold: an image below this score is strange.
    usual_share: share of strange images that is expected without drift, at most 0.05.
    strange: how many of the new ones are.
    share, share_low, share_high: their share, with its Clopper-Pearson 95 % interval.
    chance: probability of at least as many strange ones without drift.
    auroc, auroc_low, auroc_high: probability that a known image scores above a new one (0.5:
        no difference), with a bootstrap 95 % interval.
    ks, ks_p: two-sample Kolmogorov-Smirnov statistic of the scores, and its p-value.
    """

    known: int
    new: int
    threshold: float
    usual_share: float
    strange: int
    share: float
    share_low: float
    share_high: float
    chance: float
    auroc: float
    auroc_low: float
    auroc_high: float
    ks: float
    ks_p: float


def nearest_known(
    reference: Rows, images: Rows, advance: Callable[[int], None] = lambda _: None
) -> tuple[Floats, Ints]:
    """The nearest reference image of every image; both tables are read in pieces of 64 MiB.

    Args:
        reference: N >= 1 embeddings.
        images: M embeddings, none of them in the reference.
        advance: called with the number of images done.

    Returns:
        Cosines float32 (M,) and reference rows int64 (M,); of equals, the first row.

    Raises:
        ShapeError: widths differ.
        DegenerateError: a zero or non-finite row.
    """
    cosines_M = np.full(images.count, -np.inf, np.float32)
    rows_M = np.zeros(images.count, np.int64)
    for queries in _pieces(images):
        query_BD = images.read(queries.start, queries.stop)
        best, best_rows = cosines_M[queries], rows_M[queries]
        for piece in _pieces(reference):
            found, rows = nearest(reference.read(piece.start, piece.stop), query_BD, 1)
            is_nearer = found[:, 0] > best
            best[is_nearer] = found[is_nearer, 0]
            best_rows[is_nearer] = rows[is_nearer, 0] + piece.start
        advance(len(best))
    return cosines_M, rows_M


def strange_below(known_scores: NDArray[np.floating]) -> float:
    """The score c_k below which an image is strange.

    Raises:
        DegenerateError: fewer than 19 scores, or one that is not finite.
    """
    count = len(known_scores)
    if count < FEWEST_KNOWN:
        raise DegenerateError(
            f"{count} known images cannot tell what is usual; at least {FEWEST_KNOWN} are needed."
        )
    _require_finite(known_scores)
    return float(np.sort(known_scores)[_rank(count) - 1])


def measure_drift(
    known_scores: NDArray[np.floating],
    new_scores: NDArray[np.floating],
    *,
    seed: int,
    resamples: int = 1000,
) -> Drift:
    """Compare the scores of new images with those of known images that were not learned from.

    Args:
        known_scores: the calibration, shape (n,), n >= 19.
        new_scores: shape (m,), m >= 1.
        seed: of the bootstrap.
        resamples: bootstrap draws.

    Raises:
        DegenerateError: too few scores on a side, or one that is not finite.
    """
    threshold = strange_below(known_scores)
    if not len(new_scores):
        raise DegenerateError("There is no new image to tell drift from.")
    _require_finite(new_scores)
    known, new = len(known_scores), len(new_scores)
    rank = _rank(known)
    strange = int(np.count_nonzero(new_scores < threshold))
    interval = binomtest(strange, new).proportion_ci(0.95, method="exact")
    low, high = bootstrap_interval(
        auroc,
        _drawn(known_scores, seed),
        _drawn(new_scores, seed),
        seed=seed,
        resamples=resamples,
    )
    test = ks_2samp(known_scores, new_scores)
    return Drift(
        known=known,
        new=new,
        threshold=threshold,
        usual_share=rank / (known + 1),
        strange=strange,
        share=strange / new,
        share_low=float(interval.low),
        share_high=float(interval.high),
        chance=float(betabinom(new, rank, known + 1 - rank).sf(strange - 1)),
        auroc=auroc(known_scores, new_scores),
        auroc_low=low,
        auroc_high=high,
        ks=float(test.statistic),
        ks_p=float(test.pvalue),
    )


def _rank(count: int) -> int:
    """k, of n calibration images."""
    # 0.05 * 20 is 1.0000000000000002 where 0.05 * 60 is 3.0: a whole number must stay one.
    return int(USUAL_SHARE * (count + 1) + 1e-9)


def _pieces(rows: Rows) -> list[slice]:
    size = max(1, _PIECE_BYTES // (4 * rows.width))
    return [slice(start, min(start + size, rows.count)) for start in range(0, rows.count, size)]


def _drawn(scores: NDArray[np.floating], seed: int) -> NDArray[np.floating]:
    if len(scores) <= _MOST_RESAMPLED:
        return scores
    return np.random.default_rng(seed).choice(scores, _MOST_RESAMPLED, replace=False)


def _require_finite(scores: NDArray[np.floating]) -> None:
    if not np.isfinite(scores).all():
        raise DegenerateError("Some scores are not finite; mend the embeddings first.")
