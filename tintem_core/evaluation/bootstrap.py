"""One measured number, and the bootstrap that its interval comes from.

Legend: N images, R resamples. NumPy in and out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError, ShapeError

Doubles = NDArray[np.float64]
# An interval over three images or fewer means nothing.
FEWEST_IMAGES = 4


class Draws(TypedDict):
    """What every interval is drawn with: the seed, and how many resamples."""

    seed: int
    resamples: int


@dataclass(frozen=True)
class MetricRow:
    """One measured number.

    name: metric; value: on all n images; low, high: bootstrap 95 % interval; n: images used;
    chance: what an answer that knows nothing of the images reaches, where that is known exactly.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    chance: float | None = None


def mean_row(
    name: str,
    values_N: NDArray[np.generic],
    *,
    seed: int,
    resamples: int = 1000,
    chance: float | None = None,
) -> MetricRow:
    """The mean of one value per image, shape (N,), in float64.

    Raises:
        DegenerateError: no image, or a value that is not finite.
    """
    values = values_N.astype(np.float64)
    interval = bootstrap_interval(
        lambda drawn: float(np.mean(drawn)), values, seed=seed, resamples=resamples
    )
    return MetricRow(name, float(values.mean()), *interval, len(values), chance)


def multinomial_counts(count: int, resamples: int, rng: np.random.Generator) -> Doubles:
    """How often each image occurs in each bootstrap draw, float64 (R, N).

    Draws with fewer than 3 distinct images hold no correlation and are drawn again, which
    happens on a handful of images only.

    Raises:
        DegenerateError: fewer than 4 images.
    """
    refuse_few(count)
    share = np.full(count, 1 / count)
    counts_RN = rng.multinomial(count, share, resamples)
    while (poor := np.count_nonzero(counts_RN, axis=1) < 3).any():
        counts_RN[poor] = rng.multinomial(count, share, int(poor.sum()))
    return counts_RN.astype(np.float64)


def refuse_few(count: int) -> None:
    """Raises DegenerateError on fewer than 4 images."""
    if count < FEWEST_IMAGES:
        raise DegenerateError(
            f"{count} images are too few to compare; give at least {FEWEST_IMAGES}."
        )


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
