"""How fast this machine is at the run's own work: decoding, embedding, training. In seconds."""

import contextlib
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from flows.config.run import RunConfig
from flows.data.rendering import ViewSource
from storage.errors import StorageError
from storage.identity import content_key
from tintem_core.errors import InputError
from tintem_core.losses import FEWEST_EMBEDDINGS
from tintem_core.mapping.fit import fit_mapping, start_mapping
from tintem_core.mapping.module import Mapping
from tintem_core.models.device import place
from tintem_core.models.student import build_student
from tintem_core.models.teacher import Teacher
from tintem_core.objectives.base import Parts
from tintem_core.objectives.registry import build_objective
from tintem_core.training.loop import train
from tintem_core.training.state import Batch, start_training

_SECONDS = 1.0
_FEWEST_CALLS = 3
_ROWS_LOOKED_AT = 4096
_STEPS_TIMED = 16


@dataclass(frozen=True)
class Rate:
    """Units per second: of all calls that were timed, of the slowest one and of the fastest one.

    at_once: units of each of these calls.
    """

    value: float
    low: float
    high: float
    at_once: int


def rate(work: Callable[[int], None], most: int, seconds: float | None = None) -> Rate:
    """How fast some work is at the number of units that the run itself does at once.

    A call costs something besides its units: it is timed with as many of them as the run's own
    has, or, where such a call alone would take longer than there is time, with as many as fit.

    Args:
        work: does a number of units.
        most: the number that the run itself does at once.
        seconds: about as long as all timed calls may take together, after the warm-up.
    """
    seconds = _SECONDS if seconds is None else seconds
    work(1)
    count, once = 1, _timed(work, 1)
    while count < most:
        more = min(most, 4 * count)
        # At worst a call costs nothing but its units.
        if once * more / count > seconds:
            break
        # The first call of a size allocates and may compile: it warms up.
        _timed(work, more)
        count, once = more, _timed(work, more)
    spent: list[float] = []
    while len(spent) < _FEWEST_CALLS or sum(spent) < seconds / 2:
        spent.append(_timed(work, count))
    return Rate(count * len(spent) / sum(spent), count / max(spent), count / min(spent), count)


def _timed(work: Callable[[int], None], count: int) -> float:
    started = time.perf_counter()
    work(count)
    return max(time.perf_counter() - started, 1e-9)


def embedded_views(teacher: Teacher) -> Rate:
    """Views per second through the teacher, from pixels in memory to embeddings in memory."""

    def embed(count: int) -> None:
        pixels = teacher.pixel_buffer(count)
        pixels[:] = 127
        teacher.embed(pixels)

    threads = teacher.threads
    if threads == 1:
        # On a CPU, torch's own threads of two callers would wait for each other afterwards.
        return rate(embed, teacher.config.batch_size)
    with ThreadPoolExecutor(threads) as pool:
        found = rate(
            lambda count: list(pool.map(embed, [count] * threads)).clear(),
            teacher.config.batch_size,
        )
    return Rate(threads * found.value, threads * found.low, threads * found.high, found.at_once)


def decoded_images(source: ViewSource, views: int, size: int, threads: int | None) -> Rate | None:
    """Images per second read, decoded and cut into their views; None if none can be read.

    Args:
        source: a few images; their keys need not be known yet.
        views, size: what is cut from each image.
        threads: None for one per core.
    """
    keys: dict[str, str] = {}
    for uri in source.uris:
        with contextlib.suppress(StorageError):
            keys[uri] = content_key(source.images.read(uri))
    source = replace(source, uris=tuple(keys), keys=tuple(keys.values()))

    def load(row: int) -> bool:
        try:
            source.views(row % len(keys), range(views), size)
        except (InputError, StorageError):
            return False
        return True

    if not any(load(row) for row in range(min(3, len(keys)))):
        return None
    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        return rate(lambda count: list(pool.map(load, range(count))).clear(), 8 * threads)


def trained_images(config: RunConfig, device: str, teacher_width: int, width: int) -> Rate:
    """Images per second of optimiser steps on pixels in memory."""
    # Tokens are left out: how many there are depends on the teacher, what they cost is little.
    training = config.training.model_copy(update={"local_weight": 0.0})
    student = place(build_student(config.student, width, training.seed), device)
    dim = max(teacher_width, width)
    objective = build_objective(
        training.objective, Parts(Mapping(dim, width), training, classes=2), training.seed
    )
    size = config.student.image_size

    def work(count: int) -> None:
        # Batch normalisation needs two images.
        images = max(2, count)
        pixels = torch.randint(256, (images, size, size, 3), dtype=torch.uint8)
        labels = torch.zeros(images, dtype=torch.int64)
        batch = Batch(pixels, torch.randn(images, dim), labels=labels)
        # The only batch there is: the training then ends where it asks for the next.
        with contextlib.suppress(StopIteration):
            train(
                run,
                iter([batch]),
                training,
                steps,
                save=lambda _step, _data: None,
                save_every_s=math.inf,
            )
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    steps = 2**40
    with torch.random.fork_rng(devices=[]):
        run = start_training(student, objective, training, steps)
        try:
            return rate(work, config.training.batch_size)
        except torch.cuda.OutOfMemoryError as error:
            raise InputError(
                f"training.batch_size: {config.training.batch_size} images do not fit into the "
                "GPU's memory at once: choose a smaller one."
            ) from error


def mapping_seconds(config: RunConfig, device: str, rows: int, dim: int, width: int) -> float:
    """Seconds that the fit of the mapping takes, on latents in memory.

    Args:
        rows: N, training views in the cache.
        dim: D, of the teachers together.
        width: K.
    """
    mapping, generator = config.mapping, np.random.default_rng(0)
    looked_at = max(FEWEST_EMBEDDINGS, min(rows, mapping.moment_rows, _ROWS_LOOKED_AT))
    latents = generator.standard_normal((looked_at, dim), np.float32)
    started = time.perf_counter()
    start_mapping(mapping, latents.__getitem__, looked_at, dim, width)
    seconds = (time.perf_counter() - started) * min(rows, mapping.moment_rows) / looked_at
    if not mapping.descends:
        return seconds

    def work(count: int) -> None:
        some = mapping.model_copy(update={"steps": count, "start": "random", "axes": "principal"})
        fit_mapping(some, latents.__getitem__, looked_at, dim, width, device=device)

    # A fit costs something besides its steps, which the start above has in it.
    steps = min(mapping.steps, _STEPS_TIMED)
    work(1)
    few, more = (min(_timed(work, n) for _ in range(_FEWEST_CALLS)) for n in (1, 1 + steps))
    return seconds + mapping.steps * max(0.0, more - few) / steps
