"""What a mapping is: its configuration and its module. How it is fitted: `mapping`.

Legend: D teacher width, K student width.
"""

from collections.abc import Iterator
from collections.abc import Mapping as Mapped
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal

from tintem_core.errors import InputError, ShapeError

Head = Literal["linear", "layernorm", "orthogonal"]
FITTED_OBJECTIVES = ("sne", "cosine")


class MappingConfig(BaseModel, frozen=True, extra="forbid"):
    """How the teacher-to-student mapping is fitted."""

    width: int | None = Field(None, ge=1, description="K; null takes the student's natural width")
    objective: Literal["svd", "pca-basis", "random-orthogonal", "sne", "cosine"] = Field(
        "cosine",
        description="closed form (svd, pca-basis, random-orthogonal), or what the fit minimises",
    )
    start: Literal["svd", "pca-basis", "random"] = Field(
        "svd", description="where the fit of sne and cosine starts"
    )
    head: Head = Field(
        "linear",
        description="linear: no bias; layernorm: the official LayerNorm + Linear with bias; "
        "orthogonal: linear with exactly orthonormal rows",
    )
    axes: Literal["mixed", "principal"] = Field(
        "mixed",
        description="mixed: turned at random, which changes no angle, so that every coordinate "
        "varies about as much as every other and students learn it better; principal: along the "
        "main directions of the data",
    )
    fit: Literal["once", "joint"] = Field(
        "once", description="on the cache before the students, or inside each student's step"
    )
    steps: int = Field(300, ge=1, description="optimiser steps of sne and cosine")
    batch_size: int = Field(512, ge=3, description="rows compared with each other in a step")
    token_images: int = Field(
        64, ge=1, description="images of a step whose tokens are compared, where tokens are cached"
    )
    learning_rate: float = Field(3e-4, gt=0, description="Adam's peak; decays to 0 on a cosine")
    moment_rows: int = Field(
        100_000, ge=1, description="most rows, drawn with the seed, that the closed form reads"
    )
    seed: int = Field(0, ge=0, description="of batches, random starts and mixed axes")

    @model_validator(mode="after")
    def _joint_needs_an_objective(self) -> Self:
        if self.fit == "joint" and self.objective not in FITTED_OBJECTIVES:
            raise ValueError(
                f"a joint fit has nothing to minimise for objective {self.objective!r}; "
                "use 'cosine' or 'sne', or fit 'once'"
            )
        return self

    @property
    def basis(self) -> Literal["svd", "pca-basis", "random"]:
        """What the mapping is, or starts from."""
        match self.objective:
            case "svd" | "pca-basis":
                return self.objective
            case "random-orthogonal":
                return "random"
            case _:
                return self.start

    @property
    def mixes(self) -> bool:
        """Whether a rotation follows; a random basis has no main directions."""
        return self.axes == "mixed" and self.basis != "random"

    @property
    def descends(self) -> bool:
        """Whether optimiser steps on the cache follow the closed form."""
        return self.objective in FITTED_OBJECTIVES and self.fit == "once"

    def identity(self, rows: int, *, tokens: bool) -> dict[str, Any]:
        """Return everything that determines the mapping, and nothing else; without K.

        Args:
            rows: N, that it is fitted on.
            tokens: whether their tokens are at hand.
        """
        found: dict[str, Any] = {"objective": self.objective, "head": self.head, "fit": self.fit}
        if self.objective in FITTED_OBJECTIVES:
            found["start"] = self.start
        is_random = self.basis == "random"
        if not is_random:
            found["axes"] = self.axes
        reads_rows = not is_random or self.head == "layernorm"
        is_sampled = reads_rows and rows > self.moment_rows
        if is_sampled:
            found["moment_rows"] = self.moment_rows
        if self.descends:
            found |= {"steps": self.steps, "learning_rate": self.learning_rate}
            found["batch_size"] = min(self.batch_size, rows)
            if tokens:
                found["token_images"] = min(self.token_images, found["batch_size"])
        if self.descends or is_random or is_sampled or self.mixes:
            found["seed"] = self.seed
        return found


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
