"""Train a student against cached teacher latents; killed and resumed, the weights are the same.

Legend: ``B`` batch, ``D`` teacher width, ``K`` student width, ``S`` side in pixels.
"""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, Field
from timm.optim import create_optimizer_v2, get_optimizer_class
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn

from tintem_core.errors import InputError, TintemError
from tintem_core.losses import cosine_student_loss
from tintem_core.students import Student
from tintem_core.teachers import autocast, to_float


class TrainingConfig(BaseModel, frozen=True, extra="forbid"):
    """How a student is trained."""

    epochs: int = Field(60, ge=1, description="passes over the training images, one view each")
    batch_size: int = Field(64, ge=2, description="images per optimiser step")
    optimizer: str = Field("adamw", description="any timm optimiser")
    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate, after the warm-up")
    final_learning_rate: float = Field(1e-5, ge=0, description="learning rate at the end")
    weight_decay: float = Field(0.05, ge=0, description="decoupled weight decay")
    warmup_epochs: float = Field(2, ge=0, description="epochs of linear warm-up")
    clip_norm: float | None = Field(None, gt=0, description="gradient norm limit; null for none")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="autocast type of the student's forward pass"
    )
    seed: int = Field(0, ge=0, description="initial weights and data order")

    def identity(self) -> dict[str, Any]:
        """Return everything that determines the trained weights."""
        return self.model_dump()


class Batch(NamedTuple):
    """One optimiser step's data: pixels uint8 (B, S, S, 3) and teacher latents float (B, D)."""

    pixels: Tensor
    latents: Tensor


@dataclass
class Run:
    """A training in progress: everything that a checkpoint must hold."""

    student: Student
    optimizer: torch.optim.Optimizer
    scheduler: CosineLRScheduler
    scaler: torch.amp.GradScaler
    step: int
    epoch_loss: float
    history: list[dict[str, float]]

    def to_bytes(self) -> bytes:
        """Serialise for :func:`torch.load` with ``weights_only=True``."""
        buffer = io.BytesIO()
        torch.save(
            {
                "student": self.student.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "step": self.step,
                "epoch_loss": self.epoch_loss,
                "history": self.history,
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all(),
            },
            buffer,
        )
        return buffer.getvalue()

    def restore(self, checkpoint: bytes) -> None:
        """Continue from a checkpoint.

        Raises:
            TintemError: if the bytes are not a checkpoint of this training.
        """
        try:
            state = torch.load(io.BytesIO(checkpoint), weights_only=True, map_location="cpu")
            self.student.load_state_dict(state["student"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, EOFError) as error:
            raise TintemError(f"the checkpoint does not fit this training: {error}") from error
        self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.epoch_loss = state["epoch_loss"]
        self.history = state["history"]
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])


def check_optimizer(name: str) -> None:
    """Raise InputError if timm knows no optimiser of this name."""
    try:
        get_optimizer_class(name)
    except ValueError as error:
        raise InputError(
            f"training.optimizer: timm knows no optimiser '{name}'; 'adamw' and 'sgd' are two "
            "that it knows."
        ) from error


def start_run(student: Student, config: TrainingConfig, steps_per_epoch: int) -> Run:
    """Prepare a training at step 0.

    Raises:
        ValueError: if timm does not know the optimiser.
    """
    torch.manual_seed(config.seed)
    optimizer = create_optimizer_v2(
        student, opt=config.optimizer, lr=config.learning_rate, weight_decay=config.weight_decay
    )
    total = config.epochs * steps_per_epoch
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=total,
        lr_min=config.final_learning_rate,
        warmup_t=min(round(config.warmup_epochs * steps_per_epoch), total // 2),
        warmup_lr_init=config.learning_rate / 500,
        t_in_epochs=False,
    )
    device = next(student.parameters()).device.type
    scaler = torch.amp.GradScaler(device, enabled=config.precision == "float16")
    return Run(student, optimizer, scheduler, scaler, step=0, epoch_loss=0.0, history=[])


def train(
    run: Run,
    mapping: nn.Module,
    batches: Iterator[Batch],
    config: TrainingConfig,
    steps_per_epoch: int,
    *,
    save: Callable[[int, bytes], None],
    save_every_s: float = 30.0,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> None:
    """Train until ``config.epochs`` are done, from wherever ``run`` stands.

    The objective is ``1 − cos(student(x), h(teacher(x)))``, method §2 (arXiv 2411.15239).

    Args:
        run: a fresh or restored training; updated in place.
        mapping: frozen h, latents (B, D) to targets (B, K).
        batches: the batches from step ``run.step`` on, in the order that the seed determines.
        config: the recipe.
        steps_per_epoch: optimiser steps per epoch.
        save: called with (step, checkpoint bytes) from time to time and at the end.
        save_every_s: seconds between two checkpoints. Does not change the result.
        on_step: called after each step with its number and loss.
    """
    student = run.student.train()
    device = next(student.parameters()).device
    total = config.epochs * steps_per_epoch
    saved_at = time.monotonic()
    while run.step < total:
        batch = next(batches)
        run.scheduler.step_update(run.step)
        with torch.no_grad():
            target_BK = mapping(batch.latents.to(device, non_blocking=True).float())
        with autocast(device, config.precision):
            embedding_BK = student(to_float(batch.pixels, device))
        loss = cosine_student_loss(embedding_BK.float(), target_BK)
        _optimise(run, loss, config.clip_norm)
        run.step += 1
        value = loss.item()
        if value != value:
            raise TintemError(
                f"the loss became NaN at step {run.step}: lower training.learning_rate, "
                "or set training.precision to float32."
            )
        _record(run, value, steps_per_epoch)
        on_step(run.step, value)
        if run.step == total or time.monotonic() - saved_at > save_every_s:
            save(run.step, run.to_bytes())
            saved_at = time.monotonic()
    student.eval()


def _optimise(run: Run, loss: Tensor, clip_norm: float | None) -> None:
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()
    if clip_norm is not None:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.student.parameters(), clip_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()


def _record(run: Run, loss: float, steps_per_epoch: int) -> None:
    run.epoch_loss += loss / steps_per_epoch
    if run.step % steps_per_epoch == 0:
        run.history.append(
            {
                "epoch": run.step // steps_per_epoch,
                "loss": run.epoch_loss,
                "learning_rate": run.optimizer.param_groups[0]["lr"],
            }
        )
        run.epoch_loss = 0.0
