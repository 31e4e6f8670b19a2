"""Train one student on several processes: GPUs of one machine, or of many.

    torchrun --nproc-per-node 8 -m flows.torchrun run.yaml

The main process lists, extracts and maps what is missing while the others wait; then all train,
each on its share of every batch, and the main one alone writes. `tintem run run.yaml` finds the
student and goes on from there. The root must be a folder or bucket that all machines see.
"""

import contextlib
import datetime
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import distributed

from flows.config import RunConfig, load_config
from flows.reporting import Advance, reporting_to
from flows.stages.pipeline import Pipeline
from flows.stages.results import Trained
from flows.stages.teacher import choose_device
from flows.stages.train import train
from storage.errors import StorageError
from tintem_core.distributed import from_main, is_main
from tintem_core.errors import TintemError

# The others wait this long for the main process to extract.
_LONGEST_WAIT = datetime.timedelta(days=14)


class Silent:
    """The reporter of the processes that only compute."""

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        del title, total, unit
        yield lambda _: None

    def note(self, text: str) -> None:
        del text


@contextlib.contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the processes that ``torchrun`` started; NCCL between GPUs, gloo between CPUs."""
    backend = "gloo"
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=_LONGEST_WAIT)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def train_together(config: RunConfig) -> Trained:
    """Train the run's student with all processes of the group."""
    pipeline = Pipeline(config)
    prepared = from_main(
        (pipeline.indexed, pipeline.stored, pipeline.mapped) if is_main() else None
    )
    return train(config, pipeline.root, *prepared)


def main() -> None:
    """Run one process of the group; the exit code is 2 for bad input."""
    try:
        if len(sys.argv) != 2:
            raise TintemError("give one config: torchrun --nproc-per-node 2 -m flows.torchrun FILE")
        config = load_config(Path(sys.argv[1]))
        with process_group(choose_device(config.runtime.device)):
            if is_main():
                trained = train_together(config)
                print(f"student {trained.id}: {'reused' if trained.reused else 'trained'}")
            else:
                with reporting_to(Silent()):
                    train_together(config)
    except (TintemError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
