"""How close embeddings that were stored, or computed again, are to the original ones."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError, ShapeError
from tintem_core.neighbours import unit_rows


def row_cosines(first_N: NDArray[Any], second_N: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine of each embedding of a table to the same one of another, each flattened.

    Args:
        first_N, second_N: any real dtype, shape (N, ...).

    Returns:
        (N,) float64; 1 where both rows are zero, 0 where only one is, NaN where a value is NaN.

    Raises:
        ShapeError: if the shapes differ.
    """
    if first_N.shape != second_N.shape:
        raise ShapeError(f"Embeddings {first_N.shape} and {second_N.shape} differ in shape.")
    first, second = (
        table.reshape(len(table), -1).astype(np.float64) for table in (first_N, second_N)
    )
    dots = np.einsum("nd,nd->n", first, second)
    lengths = [np.linalg.norm(table, axis=1) for table in (first, second)]
    product = lengths[0] * lengths[1]
    cosines: NDArray[np.float64] = np.where(
        (lengths[0] == 0) & (lengths[1] == 0),
        1.0,
        np.divide(dots, product, out=np.zeros_like(dots), where=product != 0),
    )
    return cosines


def explained_variance(answers_NK: NDArray[Any], targets_NK: NDArray[Any]) -> float:
    """R² of unit vectors: 1 - Σ‖s - z‖² / Σ‖z - z̄‖², 0 for a constant answer z̄.

    Args:
        answers_NK, targets_NK: s and z, any float dtype, shape (N, K), normalised here.

    Returns:
        At most 1; below 0 where the mean target would be a better answer.

    Raises:
        ShapeError: if the shapes differ.
        DegenerateError: if a row has no direction, or all targets are the same.
    """
    if answers_NK.shape != targets_NK.shape:
        raise ShapeError(f"Embeddings {answers_NK.shape} and {targets_NK.shape} differ in shape.")
    answers = unit_rows(answers_NK, "the answers").astype(np.float64)
    targets = unit_rows(targets_NK, "the targets").astype(np.float64)
    variance = ((targets - targets.mean(axis=0)) ** 2).sum()
    # Rounding alone, to float32, makes this much of the same vector.
    if variance <= len(targets) * np.finfo(np.float32).eps ** 2:
        raise DegenerateError(
            f"The {len(targets)} targets are all the same: there is no variance to explain. Choose "
            "photos that differ."
        )
    return float(1 - ((answers - targets) ** 2).sum() / variance)
