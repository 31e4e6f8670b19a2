"""How fast this machine is at the run's own work: decoding, embedding, training. In seconds."""

import contextlib
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from flows.config.run import RunConfig
from flows.data.rendering import ViewSource
from storage.errors import StorageError
from storage.identity import content_key
from tintem_core.errors import InputError
from tintem_core.mapping.module import Mapping
from tintem_core.models.device import place
from tintem_core.models.student import build_student
from tintem_core.models.teacher import Teacher
from tintem_core.objectives import Parts, build_objective
from tintem_core.training.loop import train
from tintem_core.training.state import Batch, start_training

_SECONDS = 1.0


def rate(work: Callable[[int], None], most: int, seconds: float | None = None) -> float:
    """Units per second of some work.

    Args:
        work: does a number of units.
        most: the number that the run itself does at once; fewer are tried where it is slow.
        seconds: about as long as this may take, after a first unit.
    """
    seconds = _SECONDS if seconds is None else seconds
    work(1)
    started = time.perf_counter()
    work(1)
    once = max(time.perf_counter() - started, 1e-9)
    count = max(1, min(most, int(seconds / 3 / once)))
    work(count)
    done, started = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - started < seconds / 2:
        work(count)
        done += count
    return done / (time.perf_counter() - started)


def embedded_views(teacher: Teacher) -> float:
    """Views per second through the teacher, from pixels in memory to embeddings in memory."""

    def work(count: int) -> None:
        pixels = teacher.pixel_buffer(count)
        pixels[:] = 127
        teacher.embed(pixels)

    return rate(work, teacher.config.batch_size)


def decoded_images(source: ViewSource, views: int, size: int, threads: int | None) -> float | None:
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


def trained_images(config: RunConfig, device: str, teacher_width: int, width: int) -> float:
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
        try:
            run = start_training(student, objective, training, steps)
        except (ValueError, AssertionError) as error:
            raise InputError(
                f"training.optimizer: timm knows no optimiser '{config.training.optimizer}'."
            ) from error
        try:
            return rate(work, config.training.batch_size)
        except torch.cuda.OutOfMemoryError as error:
            raise InputError(
                f"training.batch_size: {config.training.batch_size} images do not fit into the "
                "GPU's memory at once: choose a smaller one."
            ) from error
