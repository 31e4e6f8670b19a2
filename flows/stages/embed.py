"""Stream images through the teacher into shards; decode, forward and write overlap.

Legend: ``N`` images, ``S`` side in pixels, ``V`` views.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from flows.stages.batches import ViewSource
from storage.cache import FeatureCache, ShardTask
from tintem_core.teachers import Teacher
from tintem_core.views import Pixels


def embed_shards(
    cache: FeatureCache,
    tasks: Sequence[ShardTask],
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
    views = cache.spec.views
    images_per_forward = max(1, teacher.config.batch_size // views)
    keys = itertools.chain.from_iterable(task.keys for task in tasks)
    with (
        ThreadPoolExecutor(decode_threads or os.cpu_count() or 1) as decoders,
        ThreadPoolExecutor(1) as writer,
    ):
        decoded = _decode_ahead(
            keys, views, teacher.config.image_size, source, decoders, 2 * images_per_forward
        )
        writing: Future[None] | None = None
        for task in tasks:
            parts: dict[str, list[NDArray[np.float32]]] = {kind: [] for kind in cache.spec.kinds}
            for start in range(0, len(task.keys), images_per_forward):
                images = min(images_per_forward, len(task.keys) - start)
                pixels = np.concatenate(list(itertools.islice(decoded, images)))
                found = teacher.embed(pixels, tokens="tokens" in parts)
                parts["global"].append(found.embedding)
                if found.tokens is not None:
                    parts["tokens"].append(found.tokens)
                advance(len(pixels))
            if writing is not None:
                writing.result()
            arrays = {kind: _views_first(rows, views) for kind, rows in parts.items()}
            writing = writer.submit(cache.write_shard, task, arrays)
        if writing is not None:
            writing.result()


def _decode_ahead(
    keys: Iterable[str],
    views: int,
    size: int,
    source: ViewSource,
    decoders: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[Pixels]:
    """Yield the views (V, S, S, 3) of each image, prepared up to ``ahead`` images early."""
    rows = {key: row for row, key in enumerate(source.keys)}
    waiting: deque[Future[Pixels]] = deque()
    for key in keys:
        waiting.append(decoders.submit(source.views, rows[key], range(views), size))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _views_first(parts: list[NDArray[np.float32]], views: int) -> NDArray[np.float32]:
    """Turn image-major rows (N·V, …) into (V, N, …)."""
    rows = np.concatenate(parts)
    return np.ascontiguousarray(rows.reshape(-1, views, *rows.shape[1:]).swapaxes(0, 1))
