"""Losses of the method, as pure functions of tensors.

Legend: B batch, T tokens, D teacher width, K student width, n embeddings compared with each other.
The pair losses take (..., n, width): the last-but-one axis is compared with itself, every leading
axis is another independent set and the mean over sets is returned. So a batch (B, K) gives the
global term and tokens (B, T, K) give the local term.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from tintem_core._sne import SneLoss, unit
from tintem_core.errors import DegenerateError, InputError, ShapeError

__all__ = [
    "SNE_TEMPERATURES",
    "centred_cosine_loss",
    "cosine_student_loss",
    "gather_with_grad",
    "pairwise_cosine_loss",
    "proteus_loss",
    "sne_loss",
    "unit",
]

SNE_TEMPERATURES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10)
FEWEST_EMBEDDINGS = 3
# exp(2 / 0.003) still fits float64, so no pass is needed to shift the logits by their maximum.
COLDEST_TEMPERATURE = 0.003


def sne_loss(
    mapped_BK: Tensor, teacher_BD: Tensor, temperatures: Sequence[float] = SNE_TEMPERATURES
) -> Tensor:
    """Symmetric von-Mises-Fisher stochastic neighbour embedding loss.

    Mean over temperatures of KL(P || Q), with P from the teacher and Q from the mapped cosines:
    p(j|i) = softmax over j != i of cos_ij / tau, P_ij = (p(j|i) + p(i|j)) / (2 n).
    Source: docs/method.md, 1. The value depends on n; say the batch size wherever it is quoted.

    Works in float64 whatever the input and whatever autocast says (on float32 the KL of a good
    mapping drowns in rounding). All temperatures share one pair of cosine matrices, and the
    gradient is finished in the forward pass: what is kept for backward is O(n K), not O(n²).
    A zero vector has cosine 0 to all others and gets no gradient.

    Args:
        mapped_BK: shape (..., n, K), n >= 3; the gradient flows here, once (no double backward).
        teacher_BD: shape (..., n, D), the same images or tokens; constant, gets no gradient.
        temperatures: tau values, each >= 0.003.

    Returns:
        Scalar of mapped_BK's dtype, at least float32.

    Raises:
        ShapeError: the sets differ.
        DegenerateError: n < 3, or values that are not finite.
        InputError: no temperature, or one below 0.003.
    """
    _check_pairs(mapped_BK, teacher_BD)
    if not temperatures or min(temperatures) < COLDEST_TEMPERATURE:
        raise InputError(
            f"SNE temperatures {list(temperatures)} must be a non-empty list of values from "
            f"{COLDEST_TEMPERATURE} up; colder ones overflow."
        )
    loss = SneLoss.apply(mapped_BK, teacher_BD.detach(), tuple(temperatures))
    return _finite(loss, "SNE loss")


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
    _check_pairs(mapped_BK, teacher_BD)
    with torch.autocast(mapped_BK.device.type, enabled=False):
        mapped, teacher = unit(mapped_BK.double()), unit(teacher_BD.detach().double())
        gap = mapped @ mapped.mT - teacher @ teacher.mT
        count = gap.shape[-1]
        squares = gap.square().sum((-2, -1)) - gap.diagonal(dim1=-2, dim2=-1).square().sum(-1)
        loss = (squares / (count * (count - 1))).mean().to(_wide_dtype(mapped_BK))
        return _finite(loss, "pairwise cosine loss")


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
        student, target = _wide(student_BK), _wide(target_BK.detach())
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
        student, target = (unit(_wide(x)) - centre_K for x in (student_BK, target_BK.detach()))
        return 1 - torch.cosine_similarity(student, target, dim=1).mean()


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
        return (_wide(student_BD) - _wide(teacher_BD.detach())).square().mean()


def gather_with_grad(rows: Tensor) -> Tensor:
    """Concatenate the rows of all ranks, gradients included; the input itself on one process.

    Every rank must bring the same number of rows. Backward sums the gradient over ranks, so a
    loss computed on the gathered rows by every rank, followed by DDP's averaging, gives the
    gradient of that loss on one process.

    Args:
        rows: shape (b, ...) on every rank.

    Returns:
        Shape (world size * b, ...), ranks in order.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return rows
    if torch.distributed.get_world_size() == 1:
        return rows
    return _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        ctx.count = len(rows)  # type: ignore[attr-defined]
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        count: int = ctx.count  # type: ignore[attr-defined]
        start = torch.distributed.get_rank() * count
        return total[start : start + count]


def _wide_dtype(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(_wide_dtype(tensor))


def _check_pairs(mapped: Tensor, teacher: Tensor) -> None:
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


def _finite(loss: Tensor, name: str) -> Tensor:
    if not torch.isfinite(loss):
        raise DegenerateError(
            f"The {name} is not finite, because the embeddings hold NaN or infinity; "
            "check the teacher's features (fp16 overflow?) and the learning rate."
        )
    return loss
