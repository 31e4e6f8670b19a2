"""The stochastic neighbour embedding (SNE) loss, and its gradient in one blockwise pass over pairs.

Legend: S independent sets, n embeddings of a set, r rows of a block, D and K widths.
The loss takes (..., n, width): the last-but-one axis is compared with itself, every leading axis
is another independent set and the mean over sets is returned.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from tintem_core.errors import InputError
from tintem_core.losses.tensors import finite, refuse_bad_pairs, unit


class SneLoss(torch.autograd.Function):
    """(mapped (..., n, K), teacher (..., n, D), temperatures) -> scalar; see `losses.sne_loss`."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, mapped: Tensor, teacher: Tensor, temperatures: tuple[float, ...]
    ) -> Tensor:
        wants_gradient: bool = ctx.needs_input_grad[0]  # type: ignore[attr-defined]
        count = mapped.shape[-2]
        mapped_SnK = mapped.reshape(-1, *mapped.shape[-2:])
        teacher_SnD = teacher.reshape(-1, *teacher.shape[-2:])
        gradient = torch.zeros_like(mapped_SnK)
        total = torch.zeros((), dtype=torch.float64, device=mapped.device)
        at_once = max(1, _block_pairs(mapped) // count**2)
        with torch.autocast(mapped.device.type, enabled=False):
            for start in range(0, len(mapped_SnK), at_once):
                part = slice(start, start + at_once)
                value, slope = _sne_sets(
                    mapped_SnK[part], teacher_SnD[part], temperatures, wants_gradient
                )
                total += value
                gradient[part] = slope
        if wants_gradient:
            ctx.save_for_backward((gradient / len(mapped_SnK)).reshape(mapped.shape))
        return (total / len(mapped_SnK)).to(torch.promote_types(mapped.dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * upstream.to(gradient.dtype), None, None


def _sne_sets(
    mapped_SnK: Tensor, teacher_SnD: Tensor, temperatures: tuple[float, ...], wants_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Summed loss of S sets, and its gradient (zeros unless wanted).

    Cosines are symmetric, hence p(j|i) + p(i|j) = E_ij (1/Z_i + 1/Z_j) with E = exp(cos / tau)
    and Z its row sums: rows can be worked off in blocks once all Z are known, and no transpose
    and no second softmax is needed.
    """
    mapped = mapped_SnK.double()
    units_SnK = unit(mapped)
    teacher_units = unit(teacher_SnD.double())
    cos_Snn = teacher_units @ teacher_units.mT
    cos_mapped_Snn = units_SnK @ units_SnK.mT
    for square in (cos_Snn, cos_mapped_Snn):
        square.diagonal(dim1=-2, dim2=-1).fill_(-torch.inf)
    count = cos_Snn.shape[-1]
    rows = max(1, _block_pairs(mapped) // count)
    blocks = [slice(start, start + rows) for start in range(0, count, rows)]

    inverse = _inverse_sums(cos_Snn, temperatures, blocks)
    inverse_mapped = _inverse_sums(cos_mapped_Snn, temperatures, blocks)
    loss = torch.zeros((), dtype=torch.float64, device=mapped.device)
    slope_SnK = torch.zeros_like(units_SnK)
    for block in blocks:
        value, slope_Srn = _sne_rows(
            cos_Snn[:, block],
            cos_mapped_Snn[:, block],
            inverse,
            inverse_mapped,
            temperatures,
            block,
            wants_gradient,
        )
        loss += value
        if slope_Srn is not None:
            # Entry ij of the cosines moves with both vectors.
            slope_SnK[:, block] += slope_Srn @ units_SnK
            slope_SnK += slope_Srn.mT @ units_SnK[:, block]
    if wants_gradient:
        radial = (slope_SnK * units_SnK).sum(-1, keepdim=True)
        norms = torch.linalg.vector_norm(mapped, dim=-1, keepdim=True)
        alive = units_SnK.any(-1, keepdim=True)
        slope_SnK = (slope_SnK - radial * units_SnK) / torch.where(alive, norms, torch.inf)
    return loss, slope_SnK.to(mapped_SnK.dtype)


def _inverse_sums(
    cos_Snn: Tensor, temperatures: tuple[float, ...], blocks: list[slice]
) -> list[Tensor]:
    """1 / Z_i for every temperature: a list of (S, n)."""
    return [
        torch.cat([(cos_Snn[:, b] / tau).exp_().sum(-1) for b in blocks], dim=-1).reciprocal_()
        for tau in temperatures
    ]


def _sne_rows(
    cos_Srn: Tensor,
    cos_mapped_Srn: Tensor,
    inverse: list[Tensor],
    inverse_mapped: list[Tensor],
    temperatures: tuple[float, ...],
    rows: slice,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Share of rows r in the loss, and d loss / d cosine (mapped) for them: scalar, (S, r, n).

    With Q in the role of P for the mapped side and w = 1/Z of it, the slope of KL(P || Q) in the
    logit ij is -P_ij + q(j|i) g_i with g_i = 2 sum_k P_ik w_i / (w_i + w_k).
    """
    count = cos_Srn.shape[-1]
    gap = cos_Srn - cos_mapped_Srn
    gap.nan_to_num_(nan=0.0)
    loss = torch.zeros((), dtype=torch.float64, device=gap.device)
    slope = torch.zeros_like(gap) if wants_gradient else None
    joint, mixed, other, spare = (torch.empty_like(gap) for _ in range(4))
    for tau, all_w, all_v in zip(temperatures, inverse, inverse_mapped, strict=True):
        scale = 1 / (2 * count * len(temperatures))
        w, v = all_w[:, rows, None], all_v[:, rows, None]
        torch.add(w, all_w[:, None, :], out=mixed)
        torch.add(v, all_v[:, None, :], out=other)
        torch.div(cos_Srn, tau, out=joint)
        joint.exp_().mul_(mixed)  # 2 n P
        loss += torch.dot(joint.flatten(), gap.flatten()) * (scale / tau)
        if slope is not None:
            pull = torch.div(joint, other, out=spare).sum(-1, keepdim=True) * v.square()
            torch.div(cos_mapped_Srn, tau, out=spare).exp_().mul_(pull)
            slope.add_(spare, alpha=2 * scale / tau).sub_(joint, alpha=scale / tau)
        mixed.div_(other).log_()
        loss += torch.dot(joint.flatten(), mixed.flatten()) * scale
    return loss, slope


def _block_pairs(tensor: Tensor) -> int:
    """Pairs per block: what a CPU core's cache holds, or what keeps a GPU busy."""
    return 1 << 16 if tensor.device.type == "cpu" else 1 << 22


SNE_TEMPERATURES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.10)
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
    refuse_bad_pairs(mapped_BK, teacher_BD)
    if not temperatures or min(temperatures) < COLDEST_TEMPERATURE:
        raise InputError(
            f"SNE temperatures {list(temperatures)} must be a non-empty list of values from "
            f"{COLDEST_TEMPERATURE} up; colder ones overflow."
        )
    loss = SneLoss.apply(mapped_BK, teacher_BD.detach(), tuple(temperatures))
    return finite(loss, "SNE loss")
