"""What the losses share: unit vectors, wide dtypes, what no loss can be computed from."""

import torch
from torch import Tensor

from tintem_core.errors import DegenerateError, ShapeError
from tintem_core.losses import FEWEST_EMBEDDINGS


def unit(rows: Tensor) -> Tensor:
    """Vectors along the last axis scaled to length 1; zero vectors stay zero, without gradient."""
    squares = rows.square().sum(-1, keepdim=True)
    alive = squares > torch.finfo(rows.dtype).tiny
    # The inner where keeps the root's infinite slope at zero out of the gradient.
    scale = torch.where(alive, squares, torch.ones_like(squares)).rsqrt()
    return rows * torch.where(alive, scale, torch.zeros_like(scale))


def wide_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def wide(tensor: Tensor) -> Tensor:
    return tensor.to(wide_dtype(tensor))


def refuse_bad_pairs(mapped: Tensor, teacher: Tensor) -> None:
    if mapped.ndim < 2 or mapped.shape[:-1] != teacher.shape[:-1]:
        raise ShapeError(
            f"Mapped {tuple(mapped.shape)} and teacher {tuple(teacher.shape)} must hold the same "
            "embeddings: equal shapes but for the last axis."
        )
    if mapped.shape[-2] < FEWEST_EMBEDDINGS or 0 in mapped.shape or 0 in teacher.shape:
        raise DegenerateError(
            f"{mapped.shape[-2]} embeddings have no neighbourhood to compare; a pair loss needs at "
            f"least {FEWEST_EMBEDDINGS}. Drop the last incomplete batch, or enlarge it."
        )


def finite(loss: Tensor, name: str) -> Tensor:
    if not torch.isfinite(loss):
        raise DegenerateError(
            f"The {name} is not finite, because the embeddings hold NaN or infinity; "
            "check the teacher's features (fp16 overflow?) and the learning rate."
        )
    return loss
