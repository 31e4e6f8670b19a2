"""Training batches: cached latents and the pixels of the same views, in a reproducible order.

Legend: ``B`` batch, ``D`` teacher width, ``N`` images, ``S`` side in pixels,
``T`` tokens, ``V`` views.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from flows.data.features import Latents
from flows.data.rendering import ViewSource, decoders
from tintem_core.errors import InputError
from tintem_core.training.order import EpochOrder
from tintem_core.training.state import Batch
from tintem_core.views import Pixels

Indices = NDArray[np.int64]
# What torch says of a loader process that wrote where no memory is, or could not begin a file.
_NO_SHARED_MEMORY = ("shared memory", "Bus error", "No space left on device")
_GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


class PixelStore:
    """The pixels of the training views, rendered when first wanted, kept where all of them fit.

    Args:
        source: renders the pixels.
        size: S, the student's input size.
        views: V, how many views of each image are in use.
        memory_bytes: rendered views are kept when all of them fit; each is then rendered once.
        threads: that decode and cut, in each process; None for one per core.
    """

    def __init__(
        self,
        source: ViewSource,
        size: int,
        views: int,
        memory_bytes: int,
        threads: int | None = None,
    ) -> None:
        self._source, self._size, self._decode_threads = source, size, threads
        self.images, self.views = len(source.keys), views
        shape = (self.images, views, size, size, 3)
        self._kept: torch.Tensor | None = None
        self.bytes_kept = math.prod(shape)
        if self.bytes_kept > memory_bytes:
            self.bytes_kept = 0
        else:
            # Tensors: sent to loader processes, they move to shared memory, and all of these fill
            # and read one and the same copy.
            self._kept = torch.empty(shape, dtype=torch.uint8)
            self._is_kept = torch.zeros(shape[0], dtype=torch.bool)

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
        return decoders(self._decode_threads, max(1, _loader_workers()))

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_threads"}


@dataclass(frozen=True)
class Taught:
    """Views of some images that students learn from: pixels, latents (V, N, D), maybe tokens."""

    pixels: PixelStore
    latents: Latents
    tokens: Latents | None = None


# Views of one set that a batch takes: at which places of the batch, which views of which images.
Chosen = tuple[Taught, Indices, Indices, Indices]


class StepDataset(Dataset[Batch]):
    """Maps an optimiser step to its batch: a pure function of (seed, step).

    An epoch is one pass over the images of ``taught``, in one view each.

    Args:
        taught: the training views.
        batch_size: B, of all processes together, support images included.
        seed: of the data order.
        evaluation: the evaluation view of the same images.
        evaluation_share: share of the epochs in which an image is seen in it.
        support: further images, in one view each.
        support_share: share of every batch that comes from them.
        labels: class numbers (N,), for a supervised training.
        views: use only the first so many training views; None for all that ``taught`` has.
        part: which of how many processes this is; each takes its share of every batch.

    Raises:
        InputError: if a batch cannot be shared out evenly.
    """

    def __init__(
        self,
        taught: Taught,
        batch_size: int,
        seed: int,
        *,
        evaluation: Taught | None = None,
        evaluation_share: float = 0.0,
        support: Sequence[Taught] = (),
        support_share: float = 0.0,
        labels: Indices | None = None,
        views: int | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self._taught, self._evaluation, self._support = taught, evaluation, support
        self._labels, self._evaluation_share = labels, evaluation_share
        images = taught.pixels.images
        self._order = EpochOrder(rows=images, seed=seed)
        self._views = views or taught.pixels.views
        batch_size = min(batch_size, images)
        self._rank, self._processes = part
        share, rest = divmod(batch_size, self._processes)
        if rest:
            raise InputError(
                f"{self._processes} processes cannot share a batch of {batch_size} images evenly: "
                f"set training.batch_size to a multiple of {self._processes} (there are {images} "
                "training images)."
            )
        if share < 2:
            raise InputError(
                f"batches of {batch_size} images, shared by {self._processes} processes, leave one "
                "image to each, which batch norm cannot learn from: set training.batch_size to at "
                f"least {2 * self._processes} (there are {images} training images)."
            )
        # Of this process. At least one photo, and where support is wanted one image of it.
        self._supporting = 0
        if support:
            self._supporting = min(share - 1, max(1, round(support_share * share)))
            self._ends = np.cumsum([found.pixels.images for found in support])
            self._support_order = EpochOrder(rows=int(self._ends[-1]), seed=seed)
        self._photos = share - self._supporting
        # Spread over the batch: a training that computes it in pieces finds some in each.
        self._is_photo = np.ones(share, bool)
        places = (np.arange(self._supporting) + 0.5) * share / max(1, self._supporting)
        self._is_photo[places.astype(int)] = False
        self.steps_per_epoch = images // (self._photos * self._processes)
        self.batch_images = batch_size
        """Of all processes together, support images included."""

    def __getitem__(self, step: int) -> Batch:
        epoch, position = divmod(step, self.steps_per_epoch)
        first = (position * self._processes + self._rank) * self._photos
        rows = self._order.at(epoch, np.arange(first, first + self._photos))
        chosen = [*self._photo_views(epoch, rows), *self._support_views(step)]

        def gathered(parts: Sequence[NDArray[Any]]) -> torch.Tensor:
            out = np.empty((len(self._is_photo), *parts[0].shape[1:]), parts[0].dtype)
            for part, (_, places, _, _) in zip(parts, chosen, strict=True):
                out[places] = part
            return torch.from_numpy(out)

        def stored(kind: Literal["latents", "tokens"]) -> tuple[torch.Tensor, torch.Tensor | None]:
            # int8 goes to the device as it is, a quarter of the bytes, and is scaled there.
            taken = [
                getattr(taught, kind).take_stored(views, numbers)
                for taught, _, views, numbers in chosen
            ]
            values, scales = zip(*taken, strict=True)
            # One config describes all of these caches.
            assert len({part.dtype for part in values}) == 1
            return gathered(values), None if scales[0] is None else gathered(scales)

        latents, latent_scales = stored("latents")
        tokens, token_scales = (None, None) if self._taught.tokens is None else stored("tokens")
        return Batch(
            gathered([taught.pixels.take(views, numbers) for taught, _, views, numbers in chosen]),
            latents,
            tokens,
            None if self._labels is None else torch.from_numpy(self._labels[rows]),
            latent_scales,
            token_scales,
        )

    def _photo_views(self, epoch: int, rows: Indices) -> Iterator[Chosen]:
        """Yield the training views of some photos, and the evaluation views of the others."""
        # Multiples of the golden ratio lie evenly in [0, 1): in every epoch as many photos as in
        # any other are seen in their evaluation view, and each photo in its share of the epochs.
        phase = rows * _GOLDEN_RATIO % 1
        before, after = (
            np.floor(count * self._evaluation_share + phase).astype(np.int64)
            for count in (epoch, epoch + 1)
        )
        is_evaluation, places = after > before, np.flatnonzero(self._is_photo)
        seen = ~is_evaluation
        if seen.any():
            views = (rows + epoch - before)[seen] % self._views
            yield self._taught, places[seen], views, rows[seen]
        if is_evaluation.any():
            assert self._evaluation is not None
            numbers = rows[is_evaluation]
            yield self._evaluation, places[is_evaluation], np.zeros_like(numbers), numbers

    def _support_views(self, step: int) -> Iterator[Chosen]:
        if not self._supporting:
            return
        first = (step * self._processes + self._rank) * self._supporting
        counted = np.arange(first, first + self._supporting)
        passes, positions = np.divmod(counted, self._ends[-1])
        numbers = np.empty_like(positions)
        for number in np.unique(passes).tolist():
            now = passes == number
            numbers[now] = self._support_order.at(number, positions[now])
        places = np.flatnonzero(~self._is_photo)
        sets = np.searchsorted(self._ends, numbers, side="right")
        for i, taught in enumerate(self._support):
            mine = sets == i
            if mine.any():
                rows = numbers[mine] - (self._ends[i] - taught.pixels.images)
                yield taught, places[mine], np.zeros_like(rows), rows


def batches_from(dataset: StepDataset, first: int, total: int, workers: int) -> Iterator[Batch]:
    """Yield the batches of steps ``first`` to ``total``; ``workers`` processes prepare them.

    Raises:
        InputError: if the system has too little shared memory for what these processes share.
    """
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_size=None,
        sampler=range(first, total),
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: the loader would otherwise draw from the student's.
        generator=torch.Generator(),
        worker_init_fn=_leave_with_parent,
        collate_fn=_shared,
    )
    # A terminal's Ctrl-C is for this process; workers inherit that they do not hear it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with _explained():
        try:
            batches = iter(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield from batches


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        if not any(said in str(error) for said in _NO_SHARED_MEMORY):
            raise
        raise InputError(
            "/dev/shm is full: it holds the photos and batches that the processes share which "
            "prepare batches. Start the container with a larger one (--shm-size 8g), or set "
            "runtime.loader_workers to 0."
        ) from error


def _shared(batch: Any) -> Any:
    """Move what a loader process has prepared to shared memory.

    Else the thread that sends it would: where that fails, the batch is lost, and waited for.
    """
    if _loader_workers():
        for tensor in batch:
            if tensor is not None:
                tensor.share_memory_()
    return batch


def _leave_with_parent(_worker: int) -> None:
    """End this worker, in the midst of anything, once the process that started it has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _loader_workers() -> int:
    info = torch.utils.data.get_worker_info()
    return 0 if info is None else info.num_workers
