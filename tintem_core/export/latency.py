"""How long a model takes."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from tintem_core.export.runtime import session


def median_ms(
    call: Callable[[], object], repeats: int = 30, warmup: int = 5, seconds: float = 60.0
) -> float:
    """Return the median wall time of ``call`` in milliseconds, after some uncounted calls.

    Args:
        call: what is timed.
        repeats: how often; fewer where ``seconds`` are over, but at least once.
        warmup: calls before them.
        seconds: time to measure in.
    """
    for _ in range(warmup):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < repeats:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        times.append(now - start)
        if now > end:
            break
    return statistics.median(times) * 1e3


def speeds(
    model: bytes, batches: tuple[int, ...] = (1, 32), threads: tuple[int, ...] = (1, 2)
) -> dict[str, float]:
    """Time an ONNX model on the CPU.

    Returns:
        Milliseconds per batch, by ``batch 32, 2 threads`` and so on.
    """
    found = {}
    for count in threads:
        opened = session(model, count)
        (given,) = opened.get_inputs()
        dtype = np.uint8 if "uint8" in given.type else np.float32
        for batch in batches:
            values = np.zeros((batch, *given.shape[1:]), dtype)
            call = partial(opened.run, None, {given.name: values})
            name = f"batch {batch}, {count} thread{'s' if count > 1 else ''}"
            found[name] = median_ms(call, repeats=10, warmup=2, seconds=0.5)
    return found
