"""One measured number, and the draws its interval comes from.

Legend: N images, R resamples. NumPy in and out.
"""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError
from tintem_core.ood import bootstrap_interval

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
