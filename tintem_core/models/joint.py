"""Several teachers as one: normalised, weighted, side by side.

Each teacher's latents are made unit vectors and scaled by the square root of its share of the
weights, so that the cosine of two joint latents is the weighted mean of the teachers' cosines.

Legend: ``B`` batch, ``T`` tokens, ``D`` width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from tintem_core.errors import ShapeError
from tintem_core.models.backbone import resample_tokens

Array = NDArray[np.floating]


def taught_latents(parts: Sequence[Array], weights: Sequence[float]) -> Array:
    """Return what students learn from: one teacher's latents as they are, or several joined."""
    return parts[0] if len(parts) == 1 else joint_latents(parts, weights)


def joint_latents(parts: Sequence[Array], weights: Sequence[float]) -> NDArray[np.float32]:
    """Join the latents that several teachers have for the same images.

    Args:
        parts: one array per teacher, (B, D_i), or tokens (B, T_i, D_i), which are resampled to
            the first teacher's grid.
        weights: one positive number per teacher.

    Returns:
        Float32, (B, ΣD) or (B, T_0, ΣD); unit vectors.

    Raises:
        ShapeError: if the teachers do not speak of the same number of images.
    """
    if len({len(part) for part in parts}) != 1:
        raise ShapeError(f"the teachers have latents of {[len(p) for p in parts]} images.")
    joined = []
    for part, weight in zip(parts, weights, strict=True):
        rows = torch.from_numpy(np.require(part, np.float32, ["C", "W"]))
        if rows.ndim == 3:
            rows = resample_tokens(rows, parts[0].shape[1])
        joined.append(torch.nn.functional.normalize(rows, dim=-1) * (weight / sum(weights)) ** 0.5)
    return torch.cat(joined, dim=-1).numpy()
