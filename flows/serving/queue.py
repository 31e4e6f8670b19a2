"""Images that wait for a student: each thread decodes and embeds some of those that are there.

Nobody waits for a batch to fill: a lone image is embedded at once, and many share a batch.

Legend: ``B`` batch, ``K`` student width, ``S`` side in pixels.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flows.inference.model import PhotoModel
from tintem_core.errors import TintemError
from tintem_pixels import PixelError, centre_crop, decode


class BusyError(TintemError):
    """More images wait than the service holds."""


class Vector(NamedTuple):
    """What a student says of one image: (K,), and the score where its file has one."""

    embedding: NDArray[np.float32]
    score: float | None


@dataclass(frozen=True)
class _Waiting:
    image: bytes
    model: PhotoModel
    found: Future[Vector] = field(default_factory=Future)


class EmbeddingQueue:
    """A bounded queue of encoded images, and the threads that embed them."""

    def __init__(
        self,
        threads: int,
        *,
        most_waiting: int,
        most_pixels: int,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        """Start.

        Args:
            threads: that decode and embed, each a batch of its own.
            most_waiting: images that may wait; more are refused.
            most_pixels: of one image, before it is decoded.
            on_batch: is told how many images a batch had.
        """
        self._most_waiting, self._most_pixels = most_waiting, most_pixels
        self._on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"embed-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, model: PhotoModel, images: list[bytes]) -> list[Future[Vector]]:
        """Let images wait, all of them or none.

        Returns:
            What will be found of each, or PixelError where it is no image.

        Raises:
            BusyError: if there is no room for them.
        """
        wanted = [_Waiting(image, model) for image in images]
        with self._changed:
            if self._is_closed:
                raise BusyError("the service is ending: ask again in a moment.")
            if len(self._waiting) + len(wanted) > self._most_waiting:
                raise BusyError(
                    f"{len(self._waiting)} images wait, and at most {self._most_waiting} may: ask "
                    "again in a moment."
                )
            self._waiting.extend(wanted)
            self._changed.notify(len(wanted))
        return [each.found for each in wanted]

    def close(self) -> None:
        """Embed what waits, take nothing more, and end the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._next():
            if self._on_batch is not None:
                self._on_batch(len(batch))
            try:
                self._answer(batch)
            except Exception as error:  # noqa: BLE001 - whoever waits is told, and the thread goes on
                for each in batch:
                    if not each.found.done():
                        each.found.set_exception(error)

    def _next(self) -> list[_Waiting]:
        """Take this thread's share of what waits, all for the same model; empty: it is over."""
        with self._changed:
            while not self._waiting and not self._is_closed:
                self._changed.wait()
            if not self._waiting:
                return []
            model = self._waiting[0].model
            share = min(-(-len(self._waiting) // len(self._threads)), model.batch_size)
            batch = [self._waiting.popleft()]
            while len(batch) < share and self._waiting[0].model is model:
                batch.append(self._waiting.popleft())
            return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        model, squares, whole = batch[0].model, [], []
        for each in batch:
            try:
                photo = decode(each.image, model.bits, most_pixels=self._most_pixels)
            except PixelError as error:
                each.found.set_exception(error)
            else:
                squares.append(centre_crop(photo.image, model.image_size))
                whole.append(each)
        if not whole:
            return
        answer = model.embed(np.stack(squares))
        scores = [None] * len(whole) if answer.score is None else answer.score.tolist()
        for each, embedding, score in zip(whole, answer.embedding, scores, strict=True):
            each.found.set_result(Vector(embedding, score))
