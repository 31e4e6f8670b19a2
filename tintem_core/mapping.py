"""The teacher in the middle: a map from the teacher's width to the student's that keeps angles.

Legend: B batch, T tokens, N rows of the cache, D teacher width, K student width.

The mean is never subtracted: it is part of every angle (method.md section 8). `fit_mapping` fits
once on the cache; for a joint fit, `start_mapping` gives the same start as a live module, and the
student's step adds `mapping_loss(config, mapping, teacher)` to its own loss against
`mapping(teacher)`, whose targets the student losses detach.
"""

import time
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Mapped
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal

from tintem_core._closed_form import (
    orthogonality_error,
    principal_rows,
    random_rows,
    second_moment,
)
from tintem_core._pairs import angle_preservation
from tintem_core.errors import DegenerateError, InputError, ShapeError
from tintem_core.losses import FEWEST_EMBEDDINGS, pairwise_cosine_loss, sne_loss, unit

__all__ = [
    "FittedMapping",
    "Mapping",
    "MappingConfig",
    "angle_preservation",
    "fit_mapping",
    "mapping_loss",
    "orthogonality_error",
    "second_moment",
    "start_mapping",
]

Sample = Callable[[NDArray[np.int64]], NDArray[np.floating]]
Head = Literal["linear", "layernorm", "orthogonal"]

_PAIR_LOSSES = {"sne": sne_loss, "cosine": pairwise_cosine_loss}
_CLOSED_START = {"svd": "svd", "pca-basis": "pca-basis", "random-orthogonal": "random"}
_MOMENT_BATCH = 4096


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
    fit: Literal["once", "joint"] = Field(
        "once", description="on the cache before the students, or inside each student's step"
    )
    steps: int = Field(500, ge=1, description="optimiser steps of sne and cosine")
    batch_size: int = Field(512, ge=3, description="rows compared with each other in a step")
    learning_rate: float = Field(3e-4, gt=0, description="Adam's peak; decays to 0 on a cosine")
    moment_rows: int = Field(
        100_000, ge=1, description="most rows, drawn with the seed, that the closed form reads"
    )
    seed: int = Field(0, ge=0, description="of the batches and of random starts")

    @model_validator(mode="after")
    def _joint_needs_an_objective(self) -> Self:
        if self.fit == "joint" and self.objective not in _PAIR_LOSSES:
            raise ValueError(
                f"a joint fit has nothing to minimise for objective {self.objective!r}; "
                "use 'cosine' or 'sne', or fit 'once'"
            )
        return self


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
            self.linear.weight = weight_KD.to(self.linear.weight)
        else:
            self.linear.weight.copy_(weight_KD)

    def plain(self) -> Self:
        """Freeze an orthogonal head into ordinary weights (in place), so that `state_dict` holds
        nothing but W; other heads are left alone.
        """
        if parametrize.is_parametrized(self.linear):
            parametrize.remove_parametrizations(self.linear, "weight")
        return self


@dataclass(frozen=True)
class FittedMapping:
    """mapping: eval mode, plain weights; curve: step and loss (batch-size dependent);
    orthogonality: `orthogonality_error` of W; seconds: wall time of the fit."""

    mapping: Mapping
    curve: list[dict[str, float]]
    orthogonality: float
    seconds: float


def fit_mapping(
    config: MappingConfig,
    sample: Sample,
    rows: int,
    dim: int,
    width: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    sample_tokens: Sample | None = None,
    device: torch.device | str = "cpu",
) -> FittedMapping:
    """Fit h on rows of a cache; memory is bounded by a batch and D x D, however many rows.

    Args:
        config: how.
        sample: sorted row numbers (int64, B) to teacher latents (B, D).
        rows: N; `sample` is asked for 0..N-1.
        dim: D.
        width: K.
        progress: called with (steps done, steps in all).
        sample_tokens: row numbers to tokens (B, T, D): adds the local term, weight 1.
        device: where the fit runs; the result comes back to the CPU.

    Raises:
        InputError: K > D, or no row.
        DegenerateError: fewer than 3 rows for sne or cosine, or latents that are not finite.
        ShapeError: `sample` gives another shape.
    """
    began = time.perf_counter()
    mapping = start_mapping(config, sample, rows, dim, width).to(device)
    curve: list[dict[str, float]] = []
    if config.objective in _PAIR_LOSSES:
        curve = _descend(config, mapping, sample, rows, sample_tokens, progress)
    mapping = mapping.plain().cpu().eval().requires_grad_(False)
    error = orthogonality_error(mapping.linear.weight)
    return FittedMapping(mapping, curve, error, time.perf_counter() - began)


def start_mapping(
    config: MappingConfig, sample: Sample, rows: int, dim: int, width: int
) -> Mapping:
    """The closed form, or the start of a fit: a trainable mapping with orthonormal rows.

    Args and raises: as `fit_mapping`.
    """
    if config.width not in (None, width):
        raise InputError(f"mapping.width is {config.width}, but the fit was asked for {width}.")
    if rows < 1:
        raise InputError("There is no image to fit a mapping on; check the train split.")
    mapping = Mapping(dim, width, config.head)
    kind = _CLOSED_START.get(config.objective, config.start)
    if kind == "random":
        basis = random_rows(width, dim, config.seed)
    else:
        batches = (unit(batch).numpy() for batch in _moment_batches(config, sample, rows, dim))
        basis = principal_rows(second_moment(batches, centre=kind == "pca-basis"), width)
    mapping.set_weight(torch.from_numpy(basis))
    if isinstance(mapping.norm, nn.LayerNorm):
        _undo_centring(
            mapping.linear, mapping.norm.eps, next(_moment_batches(config, sample, rows, dim))
        )
    return mapping


def mapping_loss(
    config: MappingConfig, mapping: Mapping, teacher: Tensor, mapped: Tensor | None = None
) -> Tensor:
    """The configured pair loss of a mapping on latents (B, D), or tokens (B, T, D).

    Args:
        config: objective sne or cosine.
        mapping: live module, the gradient flows into it.
        teacher: gathered over ranks first, where there are several (`losses.gather_with_grad`).
        mapped: mapping(teacher), where it is at hand.
    """
    loss = _PAIR_LOSSES[config.objective]
    return loss(mapping(teacher) if mapped is None else mapped, teacher)


def _moment_batches(config: MappingConfig, sample: Sample, rows: int, dim: int) -> Iterator[Tensor]:
    picked = np.arange(rows)
    if rows > config.moment_rows:
        rng = np.random.default_rng(config.seed)
        picked = np.sort(rng.choice(rows, config.moment_rows, replace=False))
    for start in range(0, len(picked), _MOMENT_BATCH):
        yield _tensor(sample(picked[start : start + _MOMENT_BATCH]), dim)


@torch.no_grad()
def _undo_centring(linear: nn.Linear, eps: float, latents_BD: Tensor) -> None:
    """Give back, as bias, the mean that LayerNorm takes out of every row.

    x / sd = LayerNorm(x) + (mean / sd) 1, and W x / sd has the angles of W x. As mean / sd hardly
    varies over images, a constant bias W 1 E[mean / sd] starts the head at the closed form.
    """
    variance, mean = torch.var_mean(latents_BD, dim=-1, correction=0)
    ratio = (mean * (variance + eps).rsqrt()).mean()
    linear.bias.copy_(linear.weight.sum(dim=1) * ratio)


def _tensor(values: NDArray[np.floating], dim: int) -> Tensor:
    if values.shape[-1] != dim:
        raise ShapeError(f"The cache gave rows {values.shape[-1]} wide, but D is {dim}.")
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _descend(
    config: MappingConfig,
    mapping: Mapping,
    sample: Sample,
    rows: int,
    sample_tokens: Sample | None,
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, float]]:
    if rows < FEWEST_EMBEDDINGS:
        raise DegenerateError(
            f"{rows} images have too few pairs for objective {config.objective!r}; give at least "
            f"{FEWEST_EMBEDDINGS}, or set mapping.objective to svd."
        )
    device, dim = mapping.linear.weight.device, mapping.linear.in_features
    rng = np.random.default_rng([config.seed, 1])
    optimiser = torch.optim.Adam(mapping.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    every = max(1, config.steps // 100)
    curve: list[dict[str, float]] = []
    for step in range(config.steps):
        picked = np.sort(rng.choice(rows, min(config.batch_size, rows), replace=False))
        loss = mapping_loss(config, mapping, _tensor(sample(picked), dim).to(device))
        if sample_tokens is not None:
            tokens = _tensor(sample_tokens(picked), dim).to(device)
            loss = loss + mapping_loss(config, mapping, tokens)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % every == 0 or step == config.steps - 1:
            curve.append({"step": float(step), "loss": float(loss.detach())})
        if progress is not None:
            progress(step + 1, config.steps)
    return curve
