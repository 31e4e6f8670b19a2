"""Squared errors.

Legend: B batch, T tokens, D teacher width.
"""

import torch
from torch import Tensor

from tintem_core.errors import ShapeError
from tintem_core.losses.tensors import wide


def proteus_loss(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean squared error, the objective of the Proteus baseline (student through its head).

    Args:
        student_BD: shape (B, D) or (B, T, D).
        teacher_BD: same shape; detached here.

    Returns:
        Scalar, at least float32.

    Raises:
        ShapeError: shapes differ (nothing is broadcast).
    """
    if student_BD.shape != teacher_BD.shape:
        raise ShapeError(
            f"Student {tuple(student_BD.shape)} and teacher {tuple(teacher_BD.shape)} differ; "
            "give the student a head of the teacher's width."
        )
    with torch.autocast(student_BD.device.type, enabled=False):
        return (wide(student_BD) - wide(teacher_BD.detach())).square().mean()
