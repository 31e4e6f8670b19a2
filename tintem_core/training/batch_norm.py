"""Batch norm over the batches of all processes, where torch has none: between CPUs.

On GPUs, `torch.nn.SyncBatchNorm` does the same.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

from tintem_core.distributed import gather_with_grad, world_size


class SharedBatchNorm(TorchFunctionMode):
    """Within it, every training batch norm takes its statistics from all processes.

    A mode, because timm has many classes of batch norm, each with more than that in its forward;
    all of them call the same function.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if func is batch_norm:
            return _shared(*args, **kwargs)
        return func(*args, **kwargs)


def _shared(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Do what `torch.nn.functional.batch_norm` does; every process brings as many values."""
    if not training:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    values = input.float()
    over = [dim for dim in range(input.ndim) if dim != 1]
    mean = gather_with_grad(values.mean(over)[None]).mean(0)
    shape = [1, -1, *[1] * (input.ndim - 2)]
    centred = values - mean.view(shape)
    variance = gather_with_grad(centred.square().mean(over)[None]).mean(0)
    if running_mean is not None and running_var is not None:
        count = world_size() * input.numel() // input.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * count / max(1, count - 1)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    normal = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        normal = normal * weight.view(shape)
    if bias is not None:
        normal = normal + bias.view(shape)
    return normal.to(input.dtype)
