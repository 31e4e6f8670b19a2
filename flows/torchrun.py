"""Train one student on several processes: GPUs of one machine, or of many.

    torchrun --nproc-per-node 8 -m flows.torchrun run.yaml

The main process lists, extracts and maps what is missing while the others wait; then all train,
each on its share of every batch, and the main one alone writes. `tintem run run.yaml` finds the
student and goes on from there. The root must be a folder or bucket that all machines see.

On one machine, `runtime.processes` in the config makes every run do this by itself.
"""

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from flows.config.load import load_config, parse_config
from flows.config.run import RunConfig
from flows.execution.child import PipeReporter, from_error, leave_with_launcher, leave_with_parent
from flows.execution.processes import ORDERS
from flows.reporting.base import Advance, Reporter, reporting_to
from flows.stages.pipeline import Pipeline
from flows.stages.results import Trained, from_ids
from flows.stages.train import train
from storage.errors import StorageError
from tintem_core.distributed import from_main, is_main
from tintem_core.errors import TintemError
from tintem_core.models.device import choose_device

# The others wait this long for the main process to extract.
_LONGEST_WAIT = datetime.timedelta(days=14)


class Silent:
    """The reporter of the processes that only compute."""

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        del title, total, unit

        def advance(done: int, /, says: str = "") -> None:
            del done, says

        yield advance

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


def train_together(config: RunConfig, handed: dict[str, Any] | None = None) -> Trained:
    """Train the run's student with all processes of the group.

    Args:
        config: the run.
        handed: what to train on, where a run has prepared it; see :mod:`flows.stages.results`.
    """
    pipeline = Pipeline(config)
    if handed is not None:
        return train(config, pipeline.root, *from_ids(pipeline.root, handed))
    prepared = from_main(
        (pipeline.indexed, pipeline.all_caches, pipeline.mapped) if is_main() else None
    )
    return train(config, pipeline.root, *prepared)


def main() -> None:
    """Run one process of the group; the exit code is 2 for bad input."""
    leave_with_launcher()
    given = os.environ.get(ORDERS)
    try:
        if given is not None:
            _answer(json.loads(given))
            return
        if len(sys.argv) != 2:
            raise TintemError("give one config: torchrun --nproc-per-node 2 -m flows.torchrun FILE")
        trained = _run(load_config(Path(sys.argv[1])), None, None)
        if trained is not None:
            print(f"student {trained.id}: {'reused' if trained.reused else 'trained'}")
    except (TintemError, StorageError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _answer(orders: dict[str, Any]) -> None:
    """Report to the process that started the group, and end with it: see execution/processes.py."""
    reports = PipeReporter.of_standard_output()
    # Not sys.stdin itself, which Python wants to close when it ends.
    leave_with_parent(os.fdopen(os.dup(0), "rb"))
    try:
        trained = _run(parse_config(orders["config"], "the run"), orders["handed"], reports)
    except Exception as error:
        # Whoever fails first is heard: the others then fail for want of it.
        reports.say(**from_error(error))
        raise
    if trained is not None:
        reports.say(student=trained.id)


def _run(
    config: RunConfig, handed: dict[str, Any] | None, reports: Reporter | None
) -> Trained | None:
    """Train with the group; returns the student on the main process.

    Args:
        config: the run.
        handed: see :func:`train_together`.
        reports: where the main one reports; None: to the log.
    """
    with process_group(choose_device(config.runtime.device)):
        if not is_main():
            reports = Silent()
        with contextlib.nullcontext() if reports is None else reporting_to(reports):
            trained = train_together(config, handed)
        return trained if is_main() else None


if __name__ == "__main__":
    main()
