"""From images to the pixels of their views: the one place that decodes.

Legend: ``S`` side in pixels.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from PIL import Image

from flows.config.run import RunConfig
from flows.data.dataset import Dataset
from flows.data.root import run_root
from storage.errors import StorageError
from storage.images import ImageReader, is_image, mark_changed
from tintem_core.errors import InputError
from tintem_core.views import EVAL, Pixels, ViewRecipe, render_views
from tintem_pixels import PixelError, decoded, decoded_pixels

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class ViewSource:
    """Renders the views of a list of images at one size."""

    images: ImageReader
    uris: Sequence[str]
    keys: Sequence[str]
    recipe: ViewRecipe
    base_size: int
    bits: int | None = None
    """How many bits are in use in grey values that are stored in more than 8."""
    on_change: Callable[[str], None] | None = None
    """Called with the uri of a photo that is no longer the one that was indexed."""

    def image(self, row: int) -> Image.Image:
        """Decode image ``row``: upright RGB.

        Raises:
            InputError: if the photo is no longer the one that was indexed.
        """
        with self._opened(row, decoded) as photo:
            return photo.image.copy()

    @contextmanager
    def _opened(
        self, row: int, decode: Callable[[bytes, int | None], AbstractContextManager[_Found]]
    ) -> Iterator[_Found]:
        """Decode image ``row`` for the length of a block."""
        uri, key = self.uris[row], self.keys[row]
        data = self.images.read(uri)
        if not is_image(data, key, self.bits):
            if self.on_change is not None:
                self.on_change(uri)
            raise InputError(f"{uri} has changed since it was indexed: run the same command again.")
        with ExitStack() as stack:
            try:
                found = stack.enter_context(decode(data, self.bits))
            except PixelError as error:
                raise InputError(
                    f"{uri} is not a readable image: {error}; set data.check to 'decode' to have "
                    "such photos left out."
                ) from error
            yield found

    def views(self, row: int, views: range, size: int) -> Pixels:
        """Decode image ``row`` once and render some of its views: (len(views), S, S, 3).

        Raises:
            InputError: see :meth:`image`.
        """
        key = self.keys[row]
        if not self.recipe.is_random:
            # Pillow cuts the centre: it would take the pixels back.
            with self._opened(row, decoded) as photo:
                return render_views(photo.image, key, views, self.recipe, size, self.base_size)
        side = self.recipe.decoded_side(max(size, self.base_size))
        with self._opened(row, partial(decoded_pixels, shorter_side=side)) as pixels:
            return render_views(pixels, key, views, self.recipe, size, self.base_size)


def view_source(config: RunConfig, dataset: Dataset, split: str | None) -> ViewSource:
    """Return a renderer of the training views of a dataset's images."""
    return renderer(config, dataset, split, config.views.recipe)


def eval_source(config: RunConfig, dataset: Dataset, split: str | None) -> ViewSource:
    """Return a renderer of the evaluation view of a dataset's images."""
    return renderer(config, dataset, split, EVAL)


def renderer(
    config: RunConfig, dataset: Dataset, split: str | None, recipe: ViewRecipe
) -> ViewSource:
    """Return a renderer of one kind of views of a dataset's images."""
    return ViewSource(
        dataset.reader,
        dataset.uris(split),
        dataset.keys(split),
        recipe,
        base_size=config.teacher.image_size,
        bits=dataset.manifest.source.bits,
        on_change=partial(_mark_changed, config, dataset.name),
    )


def _mark_changed(config: RunConfig, dataset: str, uri: str) -> None:
    """Have the next run look at a photo again, whose size and date tell no change."""
    # Where nothing may be written, the photo is still told.
    with suppress(StorageError):
        mark_changed(run_root(config), dataset, uri)


def decoders(threads: int | None, processes: int = 1) -> ThreadPoolExecutor:
    """Return threads that decode and cut.

    Args:
        threads: of this process; None: its share of the cores.
        processes: that share the cores.
    """
    return ThreadPoolExecutor(threads or max(1, (os.cpu_count() or 1) // processes))


def render(
    source: ViewSource, rows: Iterable[int], size: int, threads: int | None = None
) -> Pixels:
    """Render the first view of some images at once: (N, S, S, 3), N at least 1."""
    with decoders(threads) as pool:
        return np.concatenate(list(pool.map(lambda row: source.views(row, range(1), size), rows)))


def render_ahead(
    source: ViewSource,
    rows: Iterable[int],
    views: range,
    size: int,
    threads: int | None,
    ahead: int,
) -> Generator[Pixels, None, None]:
    """Yield some views (V, S, S, 3) of each image, prepared up to ``ahead`` images early."""
    pool = decoders(threads)
    waiting: deque[Future[Pixels]] = deque()
    try:
        for row in rows:
            waiting.append(pool.submit(source.views, row, views, size))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
