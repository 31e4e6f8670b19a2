"""Bases for the mapping that need no optimiser.

Legend: B batch, D teacher width, K student width.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tintem_core.errors import DegenerateError


def second_moment(batches: Iterable[NDArray[np.floating]], centre: bool) -> NDArray[np.float64]:
    """Streamed mean of x xᵀ over rows, minus the outer product of the mean when `centre`.

    Returns:
        float64, shape (D, D).

    Raises:
        DegenerateError: no row, or values that are not finite.
    """
    total: NDArray[np.float64] = np.zeros((0, 0))
    mean: NDArray[np.float64] = np.zeros(0)
    count = 0
    for batch_BD in batches:
        if count == 0:
            total, mean = np.zeros((batch_BD.shape[1],) * 2), np.zeros(batch_BD.shape[1])
        total += batch_BD.T @ batch_BD
        mean += batch_BD.sum(axis=0, dtype=np.float64)
        count += len(batch_BD)
    if count == 0 or not np.isfinite(total).all():
        raise DegenerateError(
            f"The second moment of {count} rows is undefined: no rows, or latents that are not "
            "finite; check the teacher's features (fp16 overflow?)."
        )
    total /= count
    if centre:
        total -= np.outer(mean, mean) / count**2
    return total


def principal_rows(moment_DD: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The `width` leading eigenvectors as orthonormal rows, float64 (K, D), the strongest first.

    Orthonormal also where the rank is below K. Signs are fixed (largest entry positive), so that
    two BLAS libraries agree.
    """
    _, vectors = np.linalg.eigh(moment_DD)
    basis_KD = vectors[:, ::-1][:, :width].T
    largest = np.abs(basis_KD).argmax(axis=1)[:, None]
    return np.ascontiguousarray(basis_KD * np.sign(np.take_along_axis(basis_KD, largest, axis=1)))


def orthogonality_error(weight_KD: Tensor) -> float:
    """||W Wᵀ - c I||_F / ||c I||_F with the best c; 0 for a scaled semi-orthogonal W."""
    weight = torch.as_tensor(weight_KD).detach().double()
    gram = weight @ weight.T
    scale = gram.diagonal().mean()
    if not scale > 0:
        raise DegenerateError("The mapping is zero everywhere; it was never fitted.")
    identity = scale * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return float((gram - identity).norm() / identity.norm())


def random_rows(width: int, dim: int, seed: int) -> NDArray[np.float64]:
    """Orthonormal rows of a uniformly random subspace, float64 (K, D)."""
    gaussian = np.random.default_rng(seed).standard_normal((dim, width))
    q, r = np.linalg.qr(gaussian)
    # Without the signs of R the distribution over subspaces' bases is not uniform (Mezzadri 2007).
    return np.ascontiguousarray((q * np.sign(np.diagonal(r))).T)
