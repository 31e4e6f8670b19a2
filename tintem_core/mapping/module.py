"""What a mapping is: its configuration and its module. How it is fitted: `mapping`.

Legend: D teacher width, K student width.
"""

from collections.abc import Iterator
from collections.abc import Mapping as Mapped
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal

from tintem_core.errors import InputError, ShapeError
from tintem_core.mapping.config import Head, MappingConfig


@contextmanager
def _fixed_random_state() -> Iterator[None]:
    # torch completes W to a square base with global random numbers; a fit must not depend on them.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Mapping(nn.Module):
    """h: (..., D) -> (..., K). Untrained it keeps the first K coordinates.

    Args:
        dim: D.
        width: K <= D.
        head: as in `MappingConfig`.

    Raises:
        InputError: K > D.
    """

    def __init__(self, dim: int, width: int, head: Head = "linear") -> None:
        super().__init__()
        if not 1 <= width <= dim:
            raise InputError(
                f"A mapping from {dim} to {width} dimensions cannot keep angles by projecting; "
                f"set mapping.width to at most {dim}, or take a wider teacher."
            )
        self.norm = nn.LayerNorm(dim) if head == "layernorm" else nn.Identity()
        self.linear = nn.utils.skip_init(nn.Linear, dim, width, bias=head == "layernorm")
        nn.init.eye_(self.linear.weight)
        if head == "layernorm":
            nn.init.zeros_(self.linear.bias)
        if head == "orthogonal":
            # Householder, the default, is exact too but five times slower at 1280 -> 256.
            with _fixed_random_state():
                orthogonal(self.linear, "weight", orthogonal_map="cayley")

    @classmethod
    def from_state(
        cls, config: MappingConfig, dim: int, width: int, tensors: Mapped[str, Tensor]
    ) -> Self:
        """A mapping from its `state_dict`, of a plain one or of a live orthogonal one."""
        live = any(name.startswith("linear.parametrizations.") for name in tensors)
        head: Head = "linear" if config.head == "orthogonal" and not live else config.head
        mapping = cls(dim, width, head)
        try:
            mapping.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise ShapeError(
                f"The stored mapping does not fit a {config.head} head from {dim} to {width}: "
                f"{error}"
            ) from error
        return mapping

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents (..., D) of any float dtype to (..., K) in the weights' dtype.

        Autocast is off inside: bf16 would cost more angle than the mapping does.
        """
        if latents.shape[-1] != self.linear.in_features:
            raise ShapeError(
                f"Latents are {latents.shape[-1]} wide, this mapping takes "
                f"{self.linear.in_features}; it belongs to another teacher."
            )
        with torch.autocast(latents.device.type, enabled=False):
            mapped: Tensor = self.linear(self.norm(latents.to(self.linear.weight.dtype)))
        return mapped

    @torch.no_grad()
    def set_weight(self, weight_KD: Tensor) -> None:
        """Start from W; an orthogonal head needs W with orthonormal rows."""
        if parametrize.is_parametrized(self.linear):
            with _fixed_random_state():
                # Detached: torch would register a Parameter instead of taking its values.
                self.linear.weight = weight_KD.detach().to(self.linear.weight)
        else:
            self.linear.weight.copy_(weight_KD)

    @torch.no_grad()
    def turn(self, rotation_KK: Tensor) -> None:
        """Follow the mapping by a rotation: every angle between outputs stays as it is."""
        weight = self.linear.weight
        rotation_KK = rotation_KK.to(weight.device, torch.float64)
        self.set_weight(rotation_KK @ weight.double())
        if self.linear.bias is not None:
            self.linear.bias.copy_(rotation_KK @ self.linear.bias.double())

    def plain(self) -> Self:
        """Freeze an orthogonal head into ordinary weights (in place), so that `state_dict` holds
        nothing but W; other heads are left alone.
        """
        if parametrize.is_parametrized(self.linear):
            parametrize.remove_parametrizations(self.linear, "weight")
            # It comes out transposed; a stored copy would multiply in another order of rounding.
            self.linear.weight.data = self.linear.weight.data.contiguous()
        return self
