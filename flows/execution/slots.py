"""GPUs and cores, dealt out to students that train side by side."""

import contextlib
import os
import queue
from collections.abc import Iterator, Sequence

from flows.config.run import RunConfig


class Slots:
    """So many students at once; each has its share of the cores, and the GPU whose turn it is."""

    def __init__(self, count: int, gpus: Sequence[str]) -> None:
        self.count = count
        self._free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        threads = max(1, (os.cpu_count() or 1) // count)
        for number in range(count):
            place = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
            if gpus:
                place["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            self._free.put(place)

    @contextlib.contextmanager
    def one(self) -> Iterator[dict[str, str]]:
        """Take a place, waiting for a free one: what the environment of its process has besides."""
        place = self._free.get()
        try:
            yield place
        finally:
            self._free.put(place)


def slots_of(config: RunConfig) -> Slots | None:
    """Return where the students of a sweep run; None: one after the other in this process."""
    if config.runtime.processes > 1:
        return None
    gpus = _gpus(config.runtime.device)
    wanted = None if config.sweep is None else config.sweep.at_once
    if wanted is None and len(gpus) > 1:
        wanted = len(gpus)
    return None if wanted is None else Slots(wanted, gpus)


def _gpus(device: str) -> list[str]:
    """Name the GPUs that may be dealt out, as CUDA_VISIBLE_DEVICES would."""
    if device not in ("auto", "cuda"):
        return []
    import torch

    numbers = [str(number) for number in range(torch.cuda.device_count())]
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[: len(numbers)] if named != [""] else numbers
