"""Start the training of one student in several processes of this machine, and listen to them.

    runtime:
      processes: 8      # one for each GPU

It is `torchrun` that starts them, see :mod:`flows.torchrun`. What the main process reports, and
what any of them prints, comes to the reporter of the run.
"""

import json
import sys
from typing import Any

import torch

from flows.config.run import RunConfig
from flows.execution.child import run_child, to_error
from tintem_core.errors import InputError, TintemError
from tintem_core.models.device import choose_device

ORDERS = "TINTEM_ORDERS"


def train_in_processes(config: RunConfig, handed: dict[str, Any]) -> None:
    """Train the run's student with ``runtime.processes`` processes, which end with this one.

    Args:
        config: the run.
        handed: what it is trained on; see :mod:`flows.stages.results`.

    Raises:
        InputError: if there are fewer GPUs than processes, or the processes find a mistake.
        UnreachableError: if what a process meets may pass by itself.
        TintemError: if a process fails, or is killed.
    """
    count = config.runtime.processes
    if choose_device(config.runtime.device).startswith("cuda"):
        found = torch.cuda.device_count()
        if found < count:
            raise InputError(
                f"runtime.processes is {count}, but torch sees {found} GPUs here: one is needed "
                "for each process."
            )
    settings = config.model_dump(mode="json", exclude_unset=True)
    ended = run_child(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={count}", "-m", "flows.torchrun",
        ],
        {ORDERS: json.dumps({"config": settings, "handed": handed})},
    )  # fmt: skip
    if "failed" in ended.answer:
        raise to_error(ended.answer)
    if "student" not in ended.answer or ended.code:
        raise TintemError(f"training in {count} processes failed: torchrun {ended.ending}")
