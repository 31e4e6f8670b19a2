"""A training in progress: everything that a checkpoint must hold.

Legend: ``B`` batch, ``T`` tokens, ``D`` teacher width, ``K`` student width, ``S`` side in pixels.
"""

import contextlib
import io
from dataclasses import dataclass
from typing import Any, NamedTuple
from zipfile import is_zipfile

import torch
from timm.layers import convert_sync_batchnorm
from timm.optim import create_optimizer_v2, get_optimizer_info
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from tintem_core.distributed import random_states, rank, set_random_state, world_size
from tintem_core.errors import InputError, TintemError
from tintem_core.models.config import Precision
from tintem_core.models.embedder import autocast, to_float
from tintem_core.models.student import Student
from tintem_core.objectives.base import Objective, Targets
from tintem_core.training.batch_norm import SharedBatchNorm
from tintem_core.training.config import TrainingConfig


class Batch(NamedTuple):
    """One optimiser step's data, of this process.

    pixels uint8 (B, S, S, 3); teacher latents (B, D); where wanted, the teacher's patch tokens
    (B, T, D) and labels int64 (B,). Latents or tokens that are int8 come with float32 scales (B,),
    which :meth:`on_device` multiplies them by.
    """

    pixels: Tensor
    latents: Tensor
    tokens: Tensor | None = None
    labels: Tensor | None = None
    latent_scales: Tensor | None = None
    token_scales: Tensor | None = None

    def on_device(self, device: torch.device) -> "Batch":
        """Return the batch on a device, its latents and tokens without scales."""
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in self._asdict().items()
            if value is not None
        }
        there = Batch(**moved)
        latents, tokens = there.latents, there.tokens
        if there.latent_scales is not None:
            latents = _scaled(latents, there.latent_scales)
        if tokens is not None and there.token_scales is not None:
            tokens = _scaled(tokens, there.token_scales)
        return Batch(there.pixels, latents, tokens, there.labels)


def _scaled(values: Tensor, scales_B: Tensor) -> Tensor:
    return values.float().mul_(scales_B.view(-1, *[1] * (values.ndim - 1)))


class Learner(nn.Module):
    """The student and its objective: from a batch to its loss."""

    def __init__(self, student: Student, objective: Objective, precision: Precision) -> None:
        super().__init__()
        self.student, self.objective = student, objective
        self._precision = precision

    def no_weight_decay(self) -> set[str]:
        """Return the names of what timm's models want free of weight decay."""
        named = getattr(self.student.backbone.model, "no_weight_decay", set)
        return {f"student.backbone.model.{name}" for name in named()}

    def forward(
        self, pixels: Tensor, latents: Tensor, tokens: Tensor | None, labels: Tensor | None
    ) -> Tensor:
        """Return the loss of a :class:`Batch` that lies on the device, a float32 scalar."""
        images = to_float(pixels, pixels.device)
        answer: Tensor | None = None
        is_shared = world_size() > 1 and pixels.device.type == "cpu"
        norms = SharedBatchNorm() if is_shared else contextlib.nullcontext()
        with norms, autocast(pixels.device, self._precision):
            if tokens is None:
                embedding = self.student(images)
            else:
                embedding, answer = self.student.with_tokens(images, tokens.shape[1])
                tokens = tokens.float()
        return self.objective(
            embedding.float(),
            None if answer is None else answer.float(),
            Targets(latents.float(), tokens, labels),
        )


@dataclass(frozen=True)
class Best:
    """What :attr:`Run.result` was after the epoch with the highest validation score."""

    epoch: int
    score: float
    weights: dict[str, Tensor]


@dataclass
class TrainingState:
    """A training in progress.

    ``first_step`` is above 0 where a finished student is extended: its epochs are counted on.
    ``pieces`` is how many each batch is computed in: what the recipe says, more where the device's
    memory did not hold that.
    ``best`` is None as long as nothing was validated.
    ``epoch_loss`` is the sum so far of this epoch's mean, float64, on the device. ``is_exact`` is
    False once a checkpoint of another number of processes was restored, whose random states do not
    fit.
    """

    learner: Learner
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    scaler: torch.amp.GradScaler
    pieces: int
    first_step: int
    step: int
    epoch_loss: Tensor
    history: list[dict[str, float | None]]
    best: Best | None = None
    is_exact: bool = True

    @property
    def result(self) -> Learner:
        """What the training is for: the averaged weights where they are kept, else the last."""
        if self.ema is None:
            return self.learner
        averaged: Learner = self.ema.module
        return averaged

    def to_bytes(self) -> bytes:
        """Serialise for :func:`torch.load` with ``weights_only=True``; called on all processes."""
        buffer = io.BytesIO()
        torch.save(
            {
                "learner": self.learner.state_dict(),
                "ema": None if self.ema is None else self.ema.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "pieces": self.pieces,
                "step": self.step,
                "epoch_loss": self.epoch_loss.item(),
                "history": self.history,
                "best": None if self.best is None else vars(self.best),
                "random": random_states(),
            },
            buffer,
        )
        return buffer.getvalue()

    def restore(self, checkpoint: bytes) -> None:
        """Continue from a checkpoint.

        Raises:
            TintemError: if the bytes are not a checkpoint of this training, which then stays as it
                is.
        """
        if not is_zipfile(io.BytesIO(checkpoint)):
            # torch's reader of older formats fails in many ways on bytes that are something else.
            raise TintemError("the checkpoint does not fit this training: it is torn.")
        try:
            state = torch.load(io.BytesIO(checkpoint), weights_only=True, map_location="cpu")
            pieces, step, history = state["pieces"], state["step"], state["history"]
            epoch_loss, random, scaler = state["epoch_loss"], state["random"], state["scaler"]
            _require_same_tensors(self.learner, state["learner"])
            if self.ema is not None:
                _require_same_tensors(self.ema.module, state["ema"])
            # Absent where an older version wrote it, which kept the last weights alone.
            best = Best(**state["best"]) if state.get("best") else None
            if best is not None:
                _require_same_tensors(self.result, best.weights)
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
            raise TintemError(f"the checkpoint does not fit this training: {error}") from error
        self.learner.load_state_dict(state["learner"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.scaler.load_state_dict(scaler)
        self.pieces, self.step, self.history, self.best = pieces, step, history, best
        self.epoch_loss.fill_(epoch_loss)
        self.is_exact = set_random_state(random)


def _require_same_tensors(module: nn.Module, found: dict[str, Tensor]) -> None:
    """Raise ValueError unless these are the names and shapes of a module's tensors."""
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    differing = wanted.items() ^ {name: tensor.shape for name, tensor in found.items()}.items()
    if differing:
        names = sorted({name for name, _ in differing})
        raise ValueError(f"{len(names)} tensors differ, {names[0]} among them")


def check_optimizer(config: TrainingConfig) -> None:
    """Raise InputError if timm knows no such optimiser, or one that this loop cannot run."""
    name = config.optimizer
    try:
        found = get_optimizer_info(name.lower().split("_")[-1])
    except ValueError as error:
        raise InputError(
            f"training.optimizer: timm knows no optimiser '{name}'; 'adamw' and 'sgd' are two "
            "that it knows."
        ) from error
    if found.second_order:
        raise InputError(
            f"training.optimizer: '{name}' needs second derivatives, which are not computed here; "
            "'adamw' and 'sgd' do without."
        )
    # Parameters that take nothing from the random generator.
    _optimizer(nn.ParameterList([nn.Parameter(torch.zeros(2, 2))]), config)


def start_training(
    student: Student,
    objective: Objective,
    config: TrainingConfig,
    steps_per_epoch: int,
    *,
    first_epoch: int = 0,
) -> TrainingState:
    """Prepare a training, on the device where the student is.

    Args:
        student: with its initial weights.
        objective: what it is asked for.
        config: the recipe.
        steps_per_epoch: optimiser steps per epoch.
        first_epoch: epochs that the student has behind it; the schedule covers the rest.

    Raises:
        InputError: if the optimiser cannot be built.
    """
    check_optimizer(config)
    torch.manual_seed(config.seed + rank())
    device = next(student.parameters()).device
    if world_size() > 1 and device.type == "cuda":
        student = convert_sync_batchnorm(student)
    learner = Learner(student, objective.to(device), config.precision)
    ema = None
    if config.ema_decay is not None:
        ema = ModelEmaV3(learner, decay=config.ema_decay, use_warmup=True)
    optimizer = _optimizer(learner, config)
    first_step = first_epoch * steps_per_epoch
    return TrainingState(
        learner,
        ema,
        optimizer,
        _scheduler(
            optimizer, config, config.epochs * steps_per_epoch - first_step, steps_per_epoch
        ),
        torch.amp.GradScaler(device.type, enabled=config.precision == "float16"),
        pieces=config.accumulation,
        first_step=first_step,
        step=first_step,
        epoch_loss=torch.zeros((), dtype=torch.float64, device=device),
        history=[],
    )


def _optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    options: dict[str, Any] = dict(config.optimizer_options)
    try:
        return create_optimizer_v2(
            model,
            opt=config.optimizer,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            **options,
        )
    except (ValueError, AssertionError, TypeError) as error:
        given = f"the options {options}" if options else "these settings"
        raise InputError(
            f"training.optimizer: timm cannot build '{config.optimizer}' with {given} ({error})."
        ) from error


def _scheduler(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int, steps_per_epoch: int
) -> Scheduler:
    warmup = min(round(config.warmup_epochs * steps_per_epoch), steps // 2)
    decay_steps = max(1, round(config.decay_epochs * steps_per_epoch))
    counts_from_start = config.schedule in ("step", "multistep")
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=config.schedule,
        # The peak is reached where the warm-up ends, and the fall begins there.
        num_epochs=steps - warmup,
        warmup_prefix=not counts_from_start,
        decay_epochs=decay_steps if counts_from_start else min(decay_steps, steps - warmup),
        decay_milestones=[round(epoch * steps_per_epoch) for epoch in config.decay_milestones],
        decay_rate=config.power if config.schedule == "poly" else config.decay_rate,
        min_lr=config.final_learning_rate,
        warmup_lr=config.warmup_learning_rate,
        warmup_epochs=warmup,
        stable_timescale=max(1, warmup),
        step_on_epochs=False,
        # timm multiplies every epoch count by this: our counts are steps already.
        updates_per_epoch=1,
    )
    return scheduler
