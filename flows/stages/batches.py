"""Training batches: cached latents and the pixels of the same views, in a reproducible order.

Legend: ``B`` batch, ``D`` teacher width, ``N`` images, ``S`` side in pixels, ``V`` views.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from storage.identity import content_key
from storage.manifest import ImageReader
from storage.reader import FeatureReader
from tintem_core.errors import InputError
from tintem_core.training import Batch
from tintem_core.views import Pixels, ViewRecipe, decode_image, render_view


@dataclass(frozen=True)
class ViewSource:
    """Renders the views of a list of images at one size."""

    images: ImageReader
    uris: tuple[str, ...]
    keys: tuple[str, ...]
    recipe: ViewRecipe
    base_size: int

    def views(self, row: int, views: range, size: int) -> Pixels:
        """Decode image ``row`` once and render some of its views: (len(views), S, S, 3).

        Raises:
            InputError: if the photo is no longer the one that was indexed.
        """
        uri, key = self.uris[row], self.keys[row]
        data = self.images.read(uri)
        if content_key(data) != key:
            raise InputError(f"{uri} has changed since it was indexed: run the same command again.")
        try:
            image = decode_image(data)
        except InputError as error:
            raise InputError(
                f"{uri} is {error}; set data.check to 'decode' to have such photos left out."
            ) from error
        return np.stack(
            [render_view(image, key, v, self.recipe, size, self.base_size) for v in views]
        )


class StepDataset(Dataset[Batch]):
    """Maps an optimiser step to its batch: a pure function of (seed, step).

    Args:
        source: renders the pixels.
        latents: cached teacher embeddings, (V, N, D), rows in the order of ``source``.
        size: S, the student's input size.
        batch_size: B.
        seed: of the data order.
        memory_bytes: rendered views are kept when all of them fit; each is then rendered once.
    """

    def __init__(
        self,
        source: ViewSource,
        latents: FeatureReader,
        size: int,
        batch_size: int,
        seed: int,
        memory_bytes: int,
    ) -> None:
        self._source, self._latents = source, latents
        self._size, self._seed = size, seed
        self._images, self._views = len(source.keys), latents.views
        self.batch_size = min(batch_size, self._images)
        self.steps_per_epoch = self._images // self.batch_size
        shape = (self._images, self._views, size, size, 3)
        self._kept: torch.Tensor | None = None
        if int(np.prod(shape)) <= memory_bytes:
            # Shared memory, so that loader processes fill and read one and the same copy.
            self._kept = _shared(torch.empty(shape, dtype=torch.uint8))
            self._is_kept = _shared(torch.zeros(shape[0], dtype=torch.bool))

    def __getitem__(self, step: int) -> Batch:
        epoch, position = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        rows = order[position * self.batch_size : (position + 1) * self.batch_size]
        views = (rows + epoch) % self._views
        pixels = np.stack(list(self._threads.map(self._pixels, rows.tolist(), views.tolist())))
        return Batch(torch.from_numpy(pixels), torch.from_numpy(self._latents.take(views, rows)))

    def _order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        key = np.array([self._seed, epoch], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).permutation(self._images)

    def _pixels(self, row: int, view: int) -> Pixels:
        if self._kept is None:
            alone: Pixels = self._source.views(row, range(view, view + 1), self._size)[0]
            return alone
        kept: Pixels = self._kept[row].numpy()
        if not self._is_kept[row]:
            # Decoding costs more than cutting: all views of the image are rendered at once.
            kept[:] = self._source.views(row, range(self._views), self._size)
            self._is_kept[row] = True
        wanted: Pixels = kept[view]
        return wanted

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // max(1, _loader_workers())))

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_threads"}


def batches_from(dataset: StepDataset, first: int, total: int, workers: int) -> Iterator[Batch]:
    """Yield the batches of steps ``first`` to ``total``; ``workers`` processes prepare them."""
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first, total),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        # Its own generator: the loader would otherwise draw from the student's.
        generator=torch.Generator(),
    )
    return iter(loader)


def _shared(tensor: torch.Tensor) -> torch.Tensor:
    shared: torch.Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
    return shared


def _loader_workers() -> int:
    info = torch.utils.data.get_worker_info()
    return 0 if info is None else info.num_workers
