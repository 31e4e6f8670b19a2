"""What is told of a training while it goes on: to who watches it, and to TensorBoard."""

import contextlib
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from torch import Tensor

from flows.config.run import RunConfig
from flows.reporting.base import Advance
from flows.stages.selection import Validation
from storage.root import Root
from tintem_core.distributed import is_main
from tintem_core.errors import InputError
from tintem_core.training.state import Learner, TrainingState

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

BOARDS = "tensorboard"
# To look at a loss, Python waits for the GPU.
_SECONDS_BETWEEN_LOOKS = 1.0


def require_tensorboard(config: RunConfig) -> None:
    """Make sure that what ``runtime.tensorboard`` asks for can be written.

    Raises:
        InputError: if the package is missing, or the root is no folder.
    """
    if not config.runtime.tensorboard:
        return
    if find_spec("tensorboard") is None:
        raise InputError(
            "runtime.tensorboard needs the package tensorboard, which is not installed: pip "
            "install 'tintem[tensorboard]', or set runtime.tensorboard to false."
        )
    if "://" in config.root:
        raise InputError(
            f"runtime.tensorboard writes its files into a folder, and {config.root} is none: set "
            "it to false, or take a folder as root."
        )


@contextlib.contextmanager
def board(
    config: RunConfig, root: Root, student: str, step: int
) -> "Iterator[SummaryWriter | None]":
    """Open the TensorBoard files of a student, on the main process, where the config wants them.

    Args:
        step: that the training goes on from: what a killed one wrote of later steps is void.

    Raises:
        InputError: see :func:`require_tensorboard`.
    """
    require_tensorboard(config)
    folder = root.path(f"{BOARDS}/{student}")
    if not (config.runtime.tensorboard and is_main()):
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=step + 1) as writer:
        yield writer


class Follower:
    """Follows a training step by step, without keeping it waiting.

    Args:
        run: the training.
        steps: at which step it ends.
        images: of a batch, over all processes.
        advance: is told of every step, once a second of the loss, the learning rate and images/s.
        writer: is given the loss and the learning rate of every step, and every validation.
    """

    def __init__(
        self,
        run: TrainingState,
        steps: int,
        images: int,
        advance: Advance,
        writer: "SummaryWriter | None",
    ) -> None:
        self._run, self._steps, self._images = run, steps, images
        self._advance, self._writer = advance, writer
        self._waiting: list[tuple[int, Tensor, float]] = []
        self._looked_at, self._seen_step = time.monotonic(), run.step

    def step(self, step: int, loss: Tensor) -> None:
        """Count a step.

        Args:
            loss: a scalar on the device, not looked at yet.
        """
        rate = self._run.optimizer.param_groups[0]["lr"]
        if self._writer is not None:
            self._waiting.append((step, loss, rate))
        seconds = time.monotonic() - self._looked_at
        if seconds < _SECONDS_BETWEEN_LOOKS and step < self._steps:
            self._advance(1)
            return
        speed = (step - self._seen_step) * self._images / max(seconds, 1e-9)
        self._advance(1, f"loss {loss.item():.4g}, rate {rate:.2g}, {speed:,.0f} images/s")
        self._looked_at, self._seen_step = time.monotonic(), step
        self._write()

    def validating(self, validation: Validation) -> Callable[[Learner], float]:
        """Return the validation, whose scores are followed too."""

        def validate(learner: Learner) -> float:
            score = validation(learner)
            if self._writer is not None:
                self._writer.add_scalar(f"validation/{validation.by}", score, self._run.step)
            return score

        return validate

    def flush(self) -> None:
        """Write what is known so far, before a checkpoint says that it is."""
        if self._writer is not None:
            self._write()
            self._writer.flush()

    def _write(self) -> None:
        for step, loss, rate in self._waiting:
            assert self._writer is not None
            self._writer.add_scalar("training/loss", loss.item(), step)
            self._writer.add_scalar("training/learning_rate", rate, step)
        self._waiting.clear()
