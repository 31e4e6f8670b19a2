"""Train a student against cached teacher latents; killed and resumed, the weights are the same."""

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tintem_core.distributed import is_main, total, world_size
from tintem_core.errors import TintemError
from tintem_core.training.config import TrainingConfig
from tintem_core.training.state import Batch, Best, Learner, TrainingState

log = logging.getLogger("tintem")
# A GPU must not wait for Python after every step: its loss is looked at this often.
_GPU_STEPS_BETWEEN_LOOKS = 10


def train(
    run: TrainingState,
    batches: Iterator[Batch],
    config: TrainingConfig,
    steps_per_epoch: int,
    *,
    save: Callable[[int, bytes], None],
    save_every_s: float = 30.0,
    compiled: bool = False,
    on_step: Callable[[int, Tensor], None] = lambda _step, _loss: None,
    validate: Callable[[Learner], float] | None = None,
) -> None:
    """Train until ``config.epochs`` are done, from wherever ``run`` stands.

    Under ``torch.distributed`` every process calls this with its part of each batch.

    Args:
        run: a fresh or restored training; updated in place.
        batches: the batches from step ``run.step`` on, in the order that the seed determines.
        config: the recipe.
        steps_per_epoch: optimiser steps per epoch.
        save: called on the main process with (step, checkpoint bytes) from time to time and at
            the end.
        save_every_s: seconds between two checkpoints. Does not change the result.
        compiled: whether `torch.compile` makes the steps faster.
        on_step: called after each step with its number and its loss over all processes, a float64
            scalar on the device.
        validate: scores the weights, in eval mode, after every ``config.validate_every`` epochs and
            at the end; called on every process, to the same score. The best weights, the earliest
            of equal ones, are the result. None: the last ones are.

    Raises:
        TintemError: if the loss is not finite, or a single image does not fit into GPU memory.
    """
    learner = run.learner.train()
    device = run.epoch_loss.device
    step_module = _parallel(learner, device, compiled)
    end = config.epochs * steps_per_epoch
    look_every = _GPU_STEPS_BETWEEN_LOOKS if device.type == "cuda" else 1
    saved_at = time.monotonic()
    while run.step < end:
        run.scheduler.step_update(run.step - run.first_step)
        batch = next(batches).on_device(device)
        loss = _backward_in_memory(run, step_module, batch)
        _optimise(run, config.clip_norm)
        run.step += 1
        if run.ema is not None:
            run.ema.update(learner, step=run.step - run.first_step)

        loss, is_due = _agreed(loss, time.monotonic() - saved_at > save_every_s)
        run.epoch_loss += loss / steps_per_epoch
        on_step(run.step, loss)
        is_epoch_over = run.step % steps_per_epoch == 0
        if not (is_epoch_over or run.step % look_every == 0):
            continue
        if not math.isfinite(run.epoch_loss.item()):
            raise TintemError(
                f"the loss is {run.epoch_loss.item()} at step {run.step}: lower "
                "training.learning_rate, or set training.precision to float32."
            )
        if is_epoch_over:
            _record(run, steps_per_epoch)
            if validate is not None:
                epoch = run.step // steps_per_epoch
                is_looked_at = epoch % config.validate_every == 0 or run.step == end
                score = _look(run, epoch, validate) if is_looked_at else None
                run.history[-1]["validation"] = score
        if run.step == end or is_due:
            checkpoint = run.to_bytes()
            if is_main():
                save(run.step, checkpoint)
            saved_at = time.monotonic()
    if run.best is not None:
        run.result.load_state_dict(run.best.weights)
    run.result.eval()


def _look(run: TrainingState, epoch: int, validate: Callable[[Learner], float]) -> float:
    """Score the weights as they are, and keep them where none were better."""
    score = validate(run.result.eval())
    run.learner.train()
    if run.best is None or score > run.best.score:
        state = run.result.state_dict().items()
        weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state}
        run.best = Best(epoch, score, weights)
    return score


def _parallel(learner: Learner, device: torch.device, compiled: bool) -> nn.Module:
    if compiled:
        learner.compile()
    if world_size() == 1:
        return learner
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    return DistributedDataParallel(
        learner,
        device_ids=[device.index] if device.type == "cuda" else None,
        # Otherwise gradients are summed in another grouping from the second step on: a resumed
        # training, whose first step it is not, would round differently.
        find_unused_parameters=True,
    )


def _backward_in_memory(run: TrainingState, module: nn.Module, batch: Batch) -> Tensor:
    """Do the same as :func:`_backward`, in more pieces once the device's memory runs out."""
    images = len(batch.pixels)
    while True:
        try:
            return _backward(run, module, batch)
        except torch.OutOfMemoryError as error:
            most = _most_pieces(images)
            pieces = min(2 * run.pieces, most)
            if world_size() > 1 or run.learner.objective.compares_images:
                # Other processes wait for this one inside a collective: they cannot start anew.
                # And which images are compared with each other is for the user to say.
                raise TintemError(
                    f"out of GPU memory with training.accumulation {run.pieces}: set it to "
                    f"{pieces}, or training.batch_size lower."
                ) from error
            if run.pieces >= most:
                raise TintemError(
                    "the GPU's memory does not hold two images of this student: take a smaller "
                    "student.model or student.image_size, or training.precision bfloat16."
                ) from error
            run.pieces = pieces
        # Outside of the handler, where the error no longer holds the tensors of the failed piece.
        run.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        log.warning("out of GPU memory: each batch is now computed in %d pieces", run.pieces)


def _backward(run: TrainingState, module: nn.Module, batch: Batch) -> Tensor:
    """Add up the gradients of a batch's pieces; return the mean loss, float64, detached."""
    run.optimizer.zero_grad(set_to_none=True)
    images = len(batch.pixels)
    count = min(run.pieces, _most_pieces(images))
    tensors = (batch.pixels, batch.latents, batch.tokens, batch.labels)
    split = [[None] * count if t is None else t.tensor_split(count) for t in tensors]
    mean = torch.zeros_like(run.epoch_loss)
    for number, piece in enumerate(zip(*split, strict=True)):
        is_last = number == count - 1
        waiting = contextlib.nullcontext() if is_last else _without_sync(module)
        with waiting:
            share = len(piece[0]) / images
            loss = module(*piece) * share
            run.scaler.scale(loss).backward()
        mean += loss.detach()
    return mean


def _most_pieces(images: int) -> int:
    """Return into how many pieces a batch can be cut, each of two images for batch norm."""
    return max(1, images // 2)


def _agreed(loss: Tensor, is_due: bool) -> tuple[Tensor, bool | Tensor]:
    """Return the loss over all processes, and whether the main process wants a checkpoint."""
    if world_size() == 1:
        return loss, is_due
    mine = torch.tensor([0.0, float(is_due and is_main())], dtype=loss.dtype, device=loss.device)
    mine[0] = loss / world_size()
    shared = total(mine)
    return shared[0], shared[1] > 0


def _without_sync(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return contextlib.nullcontext()


def _optimise(run: TrainingState, clip_norm: float | None) -> None:
    if clip_norm is not None:
        run.scaler.unscale_(run.optimizer)
        nn.utils.clip_grad_norm_(run.learner.parameters(), clip_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()


def _record(run: TrainingState, steps_per_epoch: int) -> None:
    run.history.append(
        {
            "epoch": run.step // steps_per_epoch,
            "loss": run.epoch_loss.item(),
            "learning_rate": run.optimizer.param_groups[0]["lr"],
        }
    )
    run.epoch_loss.zero_()
