"""Stream images through a model into shards; decode, copy, forward and write overlap.

Legend: ``N`` images, ``S`` side in pixels, ``V`` views.
"""

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flows.data.rendering import ViewSource, render_ahead
from storage.cache import FeatureCache, ShardTask
from storage.keys import Column
from tintem_core.models.embedder import Embedder
from tintem_core.views import Pixels

Arrays = dict[str, NDArray[np.float32]]
Transform = Callable[[Tensor], Tensor]
# Shards kept in memory while they wait to be written.
_UNWRITTEN = 2


def embed_shards(
    cache: FeatureCache,
    tasks: Sequence[ShardTask],
    model: Embedder,
    source: ViewSource,
    decode_threads: int | None,
    advance: Callable[[int], None],
    check_first: Callable[[Arrays], None] = lambda _: None,
    through: Transform | None = None,
) -> None:
    """Compute and store whole shards.

    Args:
        cache: where the shards go.
        tasks: the shards to compute.
        model: embeds the views.
        source: renders the views of the images that the tasks name.
        decode_threads: threads that decode and cut; None for one per core.
        advance: called with the number of views embedded.
        check_first: called with the first batch, (V, N, ...) by kind, before anything is stored.
        through: what tokens go through on the device; see :meth:`Embedder.embed`.
    """
    views = cache.spec.views
    batch = max(1, model.batch_size // views)
    # One more batch than there are threads that embed, so that none of them waits for pixels.
    ahead = model.threads + 1
    rows = Column(source.keys).places([key for task in tasks for key in task.keys])
    size = model.image_size
    with (
        closing(
            render_ahead(source, rows, range(views), size, decode_threads, ahead * batch)
        ) as decoded,
        ThreadPoolExecutor(model.threads) as embedders,
        ThreadPoolExecutor(1) as writer,
    ):
        embedding: deque[Future[int]] = deque()
        writing: deque[Future[None]] = deque()
        try:
            for task in tasks:
                arrays = _empty(cache, len(task.keys))
                pieces = []
                for start in range(0, len(task.keys), batch):
                    images = min(batch, len(task.keys) - start)
                    pixels = model.pixel_buffer(images * views)
                    np.concatenate(list(itertools.islice(decoded, images)), out=pixels)
                    piece = embedders.submit(
                        _embed_into, arrays, start, model, pixels, views, through
                    )
                    pieces.append(piece)
                    embedding.append(piece)
                    if len(embedding) == ahead:
                        advance(embedding.popleft().result())
                if task is tasks[0]:
                    first = pieces[0].result() // views
                    check_first({kind: rows[:, :first] for kind, rows in arrays.items()})
                writing.append(writer.submit(_write, cache, task, arrays, pieces))
                if len(writing) > _UNWRITTEN:
                    writing.popleft().result()
            for piece in embedding:
                advance(piece.result())
            for written in writing:
                written.result()
        finally:
            for pool in (embedders, writer):
                pool.shutdown(wait=False, cancel_futures=True)


def _empty(cache: FeatureCache, images: int) -> Arrays:
    spec = cache.spec
    return {
        name: np.empty((spec.views, images, *kind.shape), np.float32)
        for name, kind in spec.kinds.items()
    }


def _embed_into(
    arrays: Arrays,
    start: int,
    model: Embedder,
    pixels: Pixels,
    views: int,
    through: Transform | None,
) -> int:
    """Embed image-major views (N·V, S, S, 3) into (V, N, ...) arrays; returns how many."""
    found = model.embed(pixels, tokens="tokens" in arrays, through=through)
    stop = start + len(pixels) // views
    for kind, rows in (("global", found.embedding), ("tokens", found.tokens)):
        if rows is not None and kind in arrays:
            arrays[kind][:, start:stop] = rows.reshape(-1, views, *rows.shape[1:]).swapaxes(0, 1)
    return len(pixels)


def _write(
    cache: FeatureCache, task: ShardTask, arrays: Arrays, pieces: Sequence[Future[int]]
) -> None:
    for piece in pieces:
        piece.result()
    cache.write_shard(task, dict(arrays))
