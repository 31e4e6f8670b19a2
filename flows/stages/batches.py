"""Training batches: cached latents and the pixels of the same views, in a reproducible order.

Legend: ``B`` batch, ``D`` teacher width, ``N`` images, ``S`` side in pixels,
``T`` tokens, ``V`` views.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from flows.stages.latents import Latents
from storage.identity import content_key
from storage.images import ImageReader
from storage.order import EpochOrder
from tintem_core.errors import InputError
from tintem_core.training import Batch
from tintem_core.views import Pixels, ViewRecipe, decode_image, render_view

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class ViewSource:
    """Renders the views of a list of images at one size."""

    images: ImageReader
    uris: Sequence[str]
    keys: Sequence[str]
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


class PixelStore:
    """The pixels of the training views, rendered when first wanted, kept where all of them fit.

    Args:
        source: renders the pixels.
        size: S, the student's input size.
        views: V, how many views of each image are in use.
        memory_bytes: rendered views are kept when all of them fit; each is then rendered once.
    """

    def __init__(self, source: ViewSource, size: int, views: int, memory_bytes: int) -> None:
        self._source, self._size = source, size
        self.images, self.views = len(source.keys), views
        shape = (self.images, views, size, size, 3)
        self._kept: torch.Tensor | None = None
        if int(np.prod(shape)) <= memory_bytes:
            # Shared memory, so that loader processes fill and read one and the same copy.
            self._kept = _shared(torch.empty(shape, dtype=torch.uint8))
            self._is_kept = _shared(torch.zeros(shape[0], dtype=torch.bool))

    def take(self, views_B: Indices, rows_B: Indices) -> Pixels:
        """Return the pixels of one view each of some images: (B, S, S, 3)."""
        return np.stack(list(self._threads.map(self._pixels, rows_B.tolist(), views_B.tolist())))

    def _pixels(self, row: int, view: int) -> Pixels:
        if self._kept is None:
            alone: Pixels = self._source.views(row, range(view, view + 1), self._size)[0]
            return alone
        kept: Pixels = self._kept[row].numpy()
        if not self._is_kept[row]:
            # Decoding costs more than cutting: all views of the image are rendered at once.
            kept[:] = self._source.views(row, range(self.views), self._size)
            self._is_kept[row] = True
        wanted: Pixels = kept[view]
        return wanted

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // max(1, _loader_workers())))

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_threads"}


class StepDataset(Dataset[Batch]):
    """Maps an optimiser step to its batch: a pure function of (seed, step).

    Args:
        pixels: what the student sees.
        latents: cached teacher embeddings, (V, N, D), rows in the order of ``pixels``.
        batch_size: B, of all processes together.
        seed: of the data order.
        tokens: cached patch tokens, (V, N, T, D), for the local term.
        labels: class numbers (N,), for a supervised training.
        views: use only the first so many; None for all that ``pixels`` has.
        part: which of how many processes this is; each takes its share of every batch.

    Raises:
        InputError: if a batch cannot be shared out evenly.
    """

    def __init__(
        self,
        pixels: PixelStore,
        latents: Latents,
        batch_size: int,
        seed: int,
        *,
        tokens: Latents | None = None,
        labels: Indices | None = None,
        views: int | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._pixels, self._latents, self._tokens, self._labels = pixels, latents, tokens, labels
        self._order = EpochOrder(rows=pixels.images, seed=seed)
        self._views = views or pixels.views
        batch_size = min(batch_size, pixels.images)
        self._rank, processes = part
        self._share, rest = divmod(batch_size, processes)
        if rest:
            raise InputError(
                f"{processes} processes cannot share a batch of {batch_size} images evenly: set "
                f"training.batch_size to a multiple of {processes} (there are {pixels.images} "
                "training images)."
            )
        self._batch_size = batch_size
        self.steps_per_epoch = pixels.images // batch_size

    def __getitem__(self, step: int) -> Batch:
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self._batch_size + self._rank * self._share
        rows = self._order.at(epoch, np.arange(first, first + self._share))
        views = (rows + epoch) % self._views

        def taken(cached: Latents | None) -> torch.Tensor | None:
            return None if cached is None else torch.from_numpy(cached.take(views, rows))

        latents = taken(self._latents)
        assert latents is not None
        return Batch(
            torch.from_numpy(self._pixels.take(views, rows)),
            latents,
            taken(self._tokens),
            None if self._labels is None else torch.from_numpy(self._labels[rows]),
        )


def batches_from(dataset: StepDataset, first: int, total: int, workers: int) -> Iterator[Batch]:
    """Yield the batches of steps ``first`` to ``total``; ``workers`` processes prepare them."""
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first, total),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=torch.cuda.is_available(),
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
