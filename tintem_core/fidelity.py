"""How close embeddings that were stored, or computed again, are to the original ones."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import ShapeError


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
