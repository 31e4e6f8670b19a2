"""Unit vectors and cosines of embeddings, row by row."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError, ShapeError


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


Floats = NDArray[np.float32]


def unit_rows(rows_NK: NDArray[np.floating], name: str = "embeddings") -> Floats:
    """Rows divided by their Euclidean norm.

    Args:
        rows_NK: any float dtype, shape (N, K), N >= 1.
        name: how the error names these rows.

    Returns:
        float32, shape (N, K), every row of length 1.

    Raises:
        ShapeError: not a table.
        DegenerateError: a row that is zero or not finite has no direction.
    """
    if rows_NK.ndim != 2 or 0 in rows_NK.shape:
        raise ShapeError(f"{name} must be a non-empty table (N, K), not {rows_NK.shape}.")
    norms = np.sqrt(np.einsum("nk,nk->n", rows_NK, rows_NK, dtype=np.float64))
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > np.finfo(np.float32).tiny)))
    if bad.size:
        raise DegenerateError(
            f"{bad.size} of {len(norms)} rows of {name} are zero or not finite (the first is row "
            f"{bad[0]}), so they have no cosine; leave these images out or mend their embeddings."
        )
    unit = rows_NK.astype(np.float32)
    unit /= norms.astype(np.float32)[:, None]
    return unit
