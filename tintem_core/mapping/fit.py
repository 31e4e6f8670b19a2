"""The teacher in the middle: a map from the teacher's width to the student's that keeps angles.

Legend: B batch, T tokens, N rows of the cache, D teacher width, K student width.

The mean is never subtracted: it is part of every angle (docs/method.md 1). `fit_mapping` fits
once on the cache; for a joint fit, `start_mapping` gives the same start as a live module, and the
student's step adds `mapping_loss(config, mapping, teacher)` to its own loss against
`mapping(teacher)`, whose targets the student losses detach.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tintem_core.errors import DegenerateError, InputError, ShapeError
from tintem_core.losses import FEWEST_EMBEDDINGS
from tintem_core.losses.cosine import pairwise_cosine_loss
from tintem_core.losses.sne import sne_loss
from tintem_core.losses.tensors import unit
from tintem_core.mapping.closed_form import (
    orthogonality_error,
    principal_rows,
    random_rows,
    second_moment,
)
from tintem_core.mapping.config import MappingConfig
from tintem_core.mapping.module import Mapping

Sample = Callable[[NDArray[np.int64]], NDArray[np.floating]]
_PAIR_LOSSES = {"sne": sne_loss, "cosine": pairwise_cosine_loss}
_MOMENT_BATCH = 4096
# Cosines exact to float32 (K == D, fewer rows than K): Adam would only amplify rounding from here.
_EXACT_LOSS = 1e-12


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
    mapping = _basis(config, sample, rows, dim, width).to(device)
    curve: list[dict[str, float]] = []
    if config.objective in _PAIR_LOSSES:
        curve = _descend(config, mapping, sample, rows, sample_tokens, progress)
    mapping = mapping.plain().cpu().eval().requires_grad_(False)
    # Not before: the fit minimises a function of angles, and Adam's steps follow the axes.
    _mix(config, mapping)
    error = orthogonality_error(mapping.linear.weight)
    return FittedMapping(mapping, curve, error, time.perf_counter() - began)


def start_mapping(
    config: MappingConfig, sample: Sample, rows: int, dim: int, width: int
) -> Mapping:
    """The closed form, or the start of a joint fit: a trainable mapping with orthonormal rows.

    Args and raises: as `fit_mapping`.
    """
    mapping = _basis(config, sample, rows, dim, width)
    _mix(config, mapping)
    return mapping


def _mix(config: MappingConfig, mapping: Mapping) -> None:
    """Spread the variance evenly over the coordinates.

    Along the principal axes the first coordinates hold nearly all of it, and a student trained by
    Adam, whose steps are as long for a coordinate that hardly varies as for the first, ends up
    with more noise than signal in the last (docs/benchmarks.md has the measurement).
    """
    if config.mixes:
        width = mapping.linear.out_features
        mapping.turn(torch.from_numpy(random_rows(width, width, config.seed)))


def _basis(config: MappingConfig, sample: Sample, rows: int, dim: int, width: int) -> Mapping:
    if config.width not in (None, width):
        raise InputError(f"mapping.width is {config.width}, but the fit was asked for {width}.")
    if rows < 1:
        raise InputError("There is no image to fit a mapping on; check the train split.")
    mapping = Mapping(dim, width, config.head)
    if config.basis == "random":
        basis = random_rows(width, dim, config.seed)
    else:
        centre = config.basis == "pca-basis"
        batches = _moment_batches(config, sample, rows, dim)
        # Unit rows weigh every image the same, as cosines do. Centring needs the lengths: without
        # them the mean direction hardly varies, falls out of the basis, and every angle shifts.
        ready = (batch.numpy() if centre else unit(batch).numpy() for batch in batches)
        basis = principal_rows(second_moment(ready, centre), width)
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
    if rows > config.moment_rows:
        rng = np.random.default_rng(config.seed)
        picked = np.sort(rng.choice(rows, config.moment_rows, replace=False))
    else:
        picked = np.arange(rows)
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
    # A memory-mapped cache hands out read-only rows, which torch would warn about.
    return torch.from_numpy(np.require(values, np.float32, ["C", "W"]))


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
            some = np.sort(rng.choice(picked, min(config.token_images, len(picked)), replace=False))
            tokens = _tensor(sample_tokens(some), dim).to(device)
            loss = loss + mapping_loss(config, mapping, tokens)
        value = float(loss.detach())
        exact = value < _EXACT_LOSS
        if exact or step % every == 0 or step == config.steps - 1:
            curve.append({"step": float(step), "loss": value})
        if exact:
            if progress is not None:
                progress(config.steps, config.steps)
            break
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, config.steps)
    return curve
