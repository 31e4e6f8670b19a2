"""In one process; what several share is tested in tests/flows/test_torchrun.py."""

import pytest
import torch
from torch import Tensor, nn

from tintem_core.training.batch_norm import SharedBatchNorm


def stepped(layer: nn.Module, input: Tensor) -> list[Tensor]:
    """Return output, gradients and running statistics."""
    input = input.clone().requires_grad_()
    output = layer(input)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    gradients = [input.grad, *(p.grad for p in layer.parameters())]
    found = [output.detach(), *(g for g in gradients if g is not None), *layer.buffers()]
    return [tensor.clone() for tensor in found]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_it_does_what_batch_norm_does(training: bool, affine: bool) -> None:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(3, affine=affine).train(training)
    input = torch.randn(4, 3, 5, 5) * 2 + 1
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    wanted = stepped(layer, input)
    layer.load_state_dict(before)
    layer.zero_grad()
    with SharedBatchNorm():
        found = stepped(layer, input)
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
