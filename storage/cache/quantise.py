"""From embeddings to the numbers that are stored.

Legend: V views.
"""

from typing import Any

import numpy as np

from storage.cache.spec import SCALE_SUFFIX, KindSpec
from storage.errors import StorageInputError


def quantise(values: np.ndarray[Any, Any], kind: KindSpec) -> tuple[Any, Any]:
    """Symmetric int8 per row: values ≈ int8 · scale with scale = max|row| / 127.

    Args:
        values: (V, rows, *shape) float.

    Returns:
        int8 values of the same shape and float32 scales (V, rows); a zero row has scale 0.
    """
    wide = values.astype(np.float32, copy=False)
    axes = tuple(range(2, 2 + len(kind.shape)))
    scale = np.abs(wide).max(axis=axes) / np.float32(127)
    divisor = np.where(scale > 0, scale, 1).reshape(scale.shape + (1,) * len(axes))
    return np.rint(wide / divisor).astype(np.int8), scale.astype(np.float32)


def stored_values(
    name: str, kind: KindSpec, values: np.ndarray[Any, Any], where: str
) -> dict[str, np.ndarray[Any, Any]]:
    """Embeddings in the dtype they are stored in, per array name.

    Raises:
        StorageInputError: if a value is not finite, or is beyond float16.
    """
    if not np.isfinite(values).all():
        raise StorageInputError(
            f"{name!r} of {where} holds NaN or infinity. Run the teacher in float32 or bfloat16."
        )
    if kind.dtype == "int8":
        small, scale = quantise(values, kind)
        return {name: small, name + SCALE_SUFFIX: scale}
    with np.errstate(over="ignore"):
        stored = values.astype(kind.dtype, copy=False)
    if kind.dtype == "float16" and not np.isfinite(stored).all():
        raise StorageInputError(
            f"{name!r} of {where} holds {np.abs(values).max():.3g}, beyond float16. "
            "Store it as int8 or float32."
        )
    return {name: stored}
