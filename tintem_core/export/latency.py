"""How long one image takes."""

import statistics
import time
from collections.abc import Callable


def median_ms(call: Callable[[], object], repeats: int = 30, warmup: int = 5) -> float:
    """Return the median wall time of ``call`` in milliseconds, after some uncounted calls."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3
