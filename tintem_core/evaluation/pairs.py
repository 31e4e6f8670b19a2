"""Statistics of the pairwise cosines of a set of images.

Legend: N images, D teacher width, K student width, P pairs i < j. NumPy in and out.
"""

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError, ShapeError
from tintem_core.evaluation.bootstrap import refuse_few
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.evaluation.neighbours import neighbour_overlap, telling_neighbours

Table = NDArray[np.floating]
Doubles = NDArray[np.float64]
# Pairs grow with the square of the images; 2 million pairs fix a correlation to three decimals.
PAIR_IMAGES = 2_000


def angle_preservation(
    teacher_ND: NDArray[np.floating], mapped_NK: NDArray[np.floating], seed: int = 0
) -> dict[str, float]:
    """How well angles survive the mapping, on at most 2,000 rows drawn with `seed`.

    Returns:
        pairwise_pearson, pairwise_spearman, mean_abs_cosine_error (off-diagonal cosines),
        neighbour_overlap_10 (of fewer, see `telling_neighbours`, below 21 rows), n (rows used).

    Raises:
        ShapeError, DegenerateError: as `faithfulness`.
    """
    if len(teacher_ND) != len(mapped_NK):
        raise ShapeError(f"{len(teacher_ND)} teacher rows, but {len(mapped_NK)} mapped rows.")
    picked = pair_subsample(len(teacher_ND), seed)
    teacher, mapped = teacher_ND[picked], mapped_NK[picked]
    first, second = pair_cosines(teacher, "the teacher"), pair_cosines(mapped, "the mapped rows")
    return {
        "pairwise_pearson": pearson(first, second),
        "pairwise_spearman": spearman(first, second),
        "mean_abs_cosine_error": float(np.abs(first - second).mean()),
        "neighbour_overlap_10": float(
            neighbour_overlap(teacher, mapped, telling_neighbours(len(picked) - 1)).mean()
        ),
        "n": float(len(picked)),
    }


def pearson(first_P: Table, second_P: Table) -> float:
    """Pearson correlation in float64; DegenerateError when a side is constant."""
    first, second = (
        np.asarray(v, np.float64) - np.mean(v, dtype=np.float64) for v in (first_P, second_P)
    )
    scale = np.sqrt((first @ first) * (second @ second))
    if not scale > 1e-12 * len(first):
        raise DegenerateError(
            "A correlation of constant values is undefined; the embeddings collapsed."
        )
    return float(np.clip(first @ second / scale, -1.0, 1.0))


def spearman(first_P: Table, second_P: Table) -> float:
    """Spearman correlation with mid-ranks for ties; DegenerateError when a side is constant."""
    return pearson(mid_ranks(first_P), mid_ranks(second_P))


def mid_ranks(values_P: Table) -> Doubles:
    """Ranks 1..P as float64; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values_P, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse], np.float64)


def pair_subsample(count: int, seed: int) -> NDArray[np.int64]:
    """Sorted rows the pairwise metrics use: all, or 2,000 drawn with `seed` from more.

    Raises:
        DegenerateError: fewer than 4 images.
    """
    refuse_few(count)
    if count <= PAIR_IMAGES:
        return np.arange(count)
    drawn = np.random.default_rng(seed).choice(count, PAIR_IMAGES, replace=False)
    return np.sort(drawn).astype(np.int64)


def pair_cosines(rows_NK: Table, name: str = "embeddings") -> Doubles:
    """Cosines of all pairs i < j, float64, shape (N (N - 1) / 2,)."""
    units = unit_rows(rows_NK, name)
    cosines = (units @ units.T)[np.triu_indices(len(units), 1)]
    return np.clip(cosines, -1.0, 1.0).astype(np.float64)
