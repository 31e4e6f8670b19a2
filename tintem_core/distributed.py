"""One training on several processes: who am I, and what do we all know.

Without ``torchrun`` there is one process, and everything here is the identity.
"""

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import FunctionCtx, once_differentiable


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return which of the processes this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this process writes and reports."""
    return rank() == 0


def total(values: Tensor) -> Tensor:
    """Return the sum over all processes of a tensor of any shape."""
    if world_size() == 1:
        return values
    summed = values.clone()
    dist.all_reduce(summed)
    return summed


def gathered(value: Any) -> list[Any]:
    """Return every process's value, in the order of the ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(value: Any) -> Any:
    """Return the main process's value on every process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def random_states() -> list[dict[str, Tensor]]:
    """Return the random states of every process, in the order of the ranks."""
    mine = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        mine["cuda"] = torch.cuda.get_rng_state()
    return gathered(mine)


def set_random_state(states: list[dict[str, Tensor]]) -> bool:
    """Continue with this process's random state; False if another number of processes saved it."""
    if len(states) != world_size():
        return False
    mine = states[rank()]
    torch.set_rng_state(mine["cpu"])
    if "cuda" in mine and torch.cuda.is_available():
        torch.cuda.set_rng_state(mine["cuda"])
    return True


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
