"""Stream images through the teacher into shards; decode, forward and write overlap.

Legend: ``B`` batch, ``S`` side in pixels, ``V`` views.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.stages.batches import ViewSource
from storage.cache import FeatureCache, ShardTask
from tintem_core.teachers import Teacher
from tintem_core.views import Pixels


@dataclass(frozen=True)
class _Item:
    """One decoded image: which task it belongs to, and its views (V, S, S, 3)."""

    task: ShardTask
    views: Pixels


def embed_shards(
    cache: FeatureCache,
    tasks: Iterable[ShardTask],
    teacher: Teacher,
    source: ViewSource,
    decode_threads: int | None,
    advance: Callable[[int], None],
) -> None:
    """Compute and store whole shards.

    Args:
        cache: where the shards go.
        tasks: the shards to compute.
        teacher: embeds the views.
        source: renders the views of the images that the tasks name.
        decode_threads: threads that decode and cut; None for one per core.
        advance: called with the number of views embedded.
    """
    tokens = "tokens" in cache.spec.kinds
    threads = decode_threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as decoders, ThreadPoolExecutor(1) as writer:
        writing: Future[None] | None = None
        items = _decoded(tasks, cache, teacher, source, decoders)
        for task, groups in _by_task(items, teacher.config.batch_size):
            arrays: dict[str, list[NDArray[np.float32]]] = {}
            for group in groups:
                pixels = np.concatenate(group)
                found = teacher.embed(pixels, tokens=tokens)
                arrays.setdefault("global", []).append(found.embedding)
                if found.tokens is not None:
                    arrays.setdefault("tokens", []).append(found.tokens)
                advance(len(pixels))
            if writing is not None:
                writing.result()
            whole = {kind: _views_first(parts, cache.spec.views) for kind, parts in arrays.items()}
            writing = writer.submit(cache.write_shard, task, whole)
        if writing is not None:
            writing.result()


def _views_first(parts: list[NDArray[np.float32]], views: int) -> NDArray[np.float32]:
    """Turn image-major rows (N·V, …) into (V, N, …)."""
    rows = np.concatenate(parts)
    return np.ascontiguousarray(rows.reshape(-1, views, *rows.shape[1:]).swapaxes(0, 1))


def _decoded(
    tasks: Iterable[ShardTask],
    cache: FeatureCache,
    teacher: Teacher,
    source: ViewSource,
    decoders: ThreadPoolExecutor,
) -> Iterator[_Item]:
    """Decode ahead of the teacher, across shard borders, with bounded memory."""
    rows = {key: row for row, key in enumerate(source.keys)}
    size, views = teacher.config.image_size, range(cache.spec.views)
    ahead = max(8, 2 * teacher.config.batch_size // cache.spec.views)
    waiting: deque[tuple[ShardTask, Future[Pixels]]] = deque()
    for task in tasks:
        for key in task.keys:
            waiting.append((task, decoders.submit(source.views, rows[key], views, size)))
            if len(waiting) > ahead:
                done_task, done = waiting.popleft()
                yield _Item(done_task, done.result())
    for done_task, done in waiting:
        yield _Item(done_task, done.result())


def _by_task(
    items: Iterator[_Item], views_per_forward: int
) -> Iterator[tuple[ShardTask, Iterator[list[Pixels]]]]:
    """Group images by shard, and within a shard into lists for one forward each."""
    for _, group in itertools.groupby(items, key=lambda item: item.task.shard):
        first = next(group)
        yield first.task, _batched(itertools.chain([first], group), views_per_forward)


def _batched(items: Iterable[_Item], views_per_forward: int) -> Iterator[list[Pixels]]:
    batch: list[Pixels] = []
    for item in items:
        batch.append(item.views)
        if sum(len(v) for v in batch) >= views_per_forward:
            yield batch
            batch = []
    if batch:
        yield batch
