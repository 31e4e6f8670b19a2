"""Losses of cosines: to a target, and between the embeddings of a batch.

Legend: B batch, T tokens, D teacher width, K student width, n embeddings compared with each other.
The pair loss takes (..., n, width): the last-but-one axis is compared with itself, every leading
axis is another independent set and the mean over sets is returned. So a batch (B, K) gives the
global term and tokens (B, T, K) give the local term.
"""

import torch
from torch import Tensor

from tintem_core.errors import ShapeError
from tintem_core.losses.tensors import finite, refuse_bad_pairs, unit, wide, wide_dtype


def pairwise_cosine_loss(mapped_BK: Tensor, teacher_BD: Tensor) -> Tensor:
    """Mean squared error of the off-diagonal pairwise cosines, mapped against teacher.

    Works in float64 outside autocast: the gaps of a good mapping are 1e-3, which is what TF32 and
    bf16 products lose. A zero vector has cosine 0 to all others and gets no gradient.

    Args:
        mapped_BK: shape (..., n, K), n >= 3.
        teacher_BD: shape (..., n, D), the same images or tokens; constant, gets no gradient.

    Returns:
        Scalar, at least float32.

    Raises:
        ShapeError: the sets differ.
        DegenerateError: n < 3, or values that are not finite.
    """
    refuse_bad_pairs(mapped_BK, teacher_BD)
    with torch.autocast(mapped_BK.device.type, enabled=False):
        mapped, teacher = unit(mapped_BK.double()), unit(teacher_BD.detach().double())
        gap = mapped @ mapped.mT - teacher @ teacher.mT
        count = gap.shape[-1]
        squares = gap.square().sum((-2, -1)) - gap.diagonal(dim1=-2, dim2=-1).square().sum(-1)
        loss = (squares / (count * (count - 1))).mean().to(wide_dtype(mapped_BK))
        return finite(loss, "pairwise cosine loss")


def cosine_student_loss(student_BK: Tensor, target_BK: Tensor, per_token: bool = False) -> Tensor:
    """1 - cos(student, target), mean over images.

    Source: docs/method.md, 2. Tokens (B, T, K) of an image are flattened into one vector, as in
    the official code; `per_token` compares token by token and takes the mean instead.

    Args:
        student_BK: shape (B, K) or (B, T, K).
        target_BK: same shape, h(teacher); detached here.
        per_token: compare every token on its own.

    Returns:
        Scalar in [0, 2], at least float32.

    Raises:
        ShapeError: shapes differ or are not (B, K) or (B, T, K).
    """
    if student_BK.shape != target_BK.shape or student_BK.ndim not in (2, 3):
        raise ShapeError(
            f"Student {tuple(student_BK.shape)} and target {tuple(target_BK.shape)} must both be "
            "(B, K), or both (B, T, K)."
        )
    with torch.autocast(student_BK.device.type, enabled=False):
        student, target = wide(student_BK), wide(target_BK.detach())
        if not per_token:
            student, target = student.flatten(1), target.flatten(1)
        cosines = (unit(student) * unit(target)).sum(-1)
        return 1 - cosines.mean()


def centred_cosine_loss(student_BK: Tensor, target_BK: Tensor, centre_K: Tensor) -> Tensor:
    """1 - cos(s - m, t - m), mean over images, with s and t unit vectors and m the mean target.

    Embeddings of one kind of photos lie in a narrow cone around m. Their plain cosines are near 1
    whatever the student answers; what tells one photo from another is the rest, t - m.

    Args:
        student_BK: shape (B, K).
        target_BK: same shape, h(teacher); detached here.
        centre_K: m, the mean of the unit targets of the training images, shape (K,).

    Returns:
        Scalar in [0, 2], at least float32.

    Raises:
        ShapeError: shapes differ.
    """
    if student_BK.shape != target_BK.shape or centre_K.shape != target_BK.shape[1:]:
        raise ShapeError(
            f"Student {tuple(student_BK.shape)} and target {tuple(target_BK.shape)} must both be "
            f"(B, K), and the centre {tuple(centre_K.shape)} (K,)."
        )
    with torch.autocast(student_BK.device.type, enabled=False):
        student, target = (unit(wide(x)) - centre_K for x in (student_BK, target_BK.detach()))
        return 1 - torch.cosine_similarity(student, target, dim=1).mean()
