"""Frozen models at work: pixels in, embeddings out.

Legend: ``B`` batch, ``T`` tokens, ``D`` width, ``S`` side in pixels.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tintem_core.models.config import Precision
from tintem_core.models.device import place
from tintem_core.views import Pixels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embeddings:
    """What a model says about a batch: ``embedding`` (B, D) and maybe ``tokens`` (B, T, C)."""

    embedding: NDArray[np.float32]
    tokens: NDArray[np.float32] | None


class Embedder:
    """A frozen model in ``eval()`` mode that never builds a graph.

    Args:
        module: (B, 3, S, S) to (B, D); with ``forward_with_tokens`` where tokens are wanted.
        image_size: S.
        batch_size: images per forward; halved when the device's memory runs out.
        device: where it computes.
        precision: autocast type of the forward pass.
    """

    def __init__(
        self,
        module: nn.Module,
        image_size: int,
        batch_size: int = 64,
        device: str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        self.image_size, self.batch_size = image_size, batch_size
        self.device = torch.device(device)
        # Modules differ in what they offer besides: to the type checker this one can be anything.
        self._module: Any = place(module.eval().requires_grad_(False), self.device)
        self._precision = precision
        self._batch_size = batch_size
        self._streams = threading.local()

    @property
    def threads(self) -> int:
        """How many threads should call :meth:`embed` at once to keep the device busy.

        On a GPU, while one waits for its copies the others' forward passes run.
        """
        return 3 if self.device.type == "cuda" else 1

    def pixel_buffer(self, images: int) -> Pixels:
        """Return room for pixels (B, S, S, 3) that the device can copy from without waiting."""
        shape = (images, self.image_size, self.image_size, 3)
        buffer: Pixels = torch.empty(
            shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda"
        ).numpy()
        return buffer

    def embed(
        self,
        pixels: Pixels,
        *,
        tokens: bool = False,
        through: Callable[[Tensor], Tensor] | None = None,
    ) -> Embeddings:
        """Embed a batch, in smaller pieces when the device's memory does not hold it at once.

        Args:
            pixels: RGB, uint8, shape (B, S, S, 3).
            tokens: whether patch tokens are wanted too.
            through: (B, T, C) float32 to (B, T, K), on the device: tokens are copied to the host
                only after it.

        Returns:
            Float32 arrays in the order of ``pixels``.
        """
        pieces: list[Embeddings] = []
        start = 0
        while start < len(pixels):
            # Read once: several threads embed at the same time, and any of them may halve it.
            size = self._batch_size
            try:
                pieces.append(self._forward(pixels[start : start + size], tokens, through))
                start += size
            except torch.cuda.OutOfMemoryError:
                if size == 1:
                    raise
                self._batch_size = min(self._batch_size, size // 2)
                torch.cuda.empty_cache()
                log.warning("out of GPU memory: the batch size is now %d", self._batch_size)
        if not tokens:
            return Embeddings(np.concatenate([p.embedding for p in pieces]), None)
        return Embeddings(
            np.concatenate([p.embedding for p in pieces]),
            np.concatenate([p.tokens for p in pieces if p.tokens is not None]),
        )

    @torch.inference_mode()
    def _forward(
        self, pixels: Pixels, tokens: bool, through: Callable[[Tensor], Tensor] | None
    ) -> Embeddings:
        with self._own_stream():
            batch = to_float(torch.from_numpy(pixels), self.device)
            with autocast(self.device, self._precision):
                if not tokens:
                    return Embeddings(_numpy(self._module(batch)), None)
                embedding, patch_tokens = self._module.forward_with_tokens(batch)
            if through is not None:
                patch_tokens = through(patch_tokens.float())
            return Embeddings(_numpy(embedding), _numpy(patch_tokens))

    def _own_stream(self) -> AbstractContextManager[Any]:
        """A CUDA stream per thread: its copies then overlap the forward passes of the others."""
        if self.device.type != "cuda":
            return nullcontext()
        if not hasattr(self._streams, "own"):
            self._streams.own = torch.cuda.Stream(self.device)
            # The weights came on the default stream.
            self._streams.own.wait_stream(torch.cuda.default_stream(self.device))
        return torch.cuda.stream(self._streams.own)


def to_float(pixels_BHWC: Tensor, device: torch.device) -> Tensor:
    """Turn uint8 (B, S, S, 3) into float32 0..1 of shape (B, 3, S, S), channels last in memory."""
    return pixels_BHWC.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(255)


def autocast(device: torch.device, precision: Precision) -> Any:
    """Return the autocast context of a precision; none for float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


def _numpy(tensor: Tensor) -> NDArray[np.float32]:
    """Copy to the host; on a GPU into pinned memory, waiting for this thread's stream only."""
    if tensor.is_cuda:
        host = torch.empty(tensor.shape, dtype=torch.float32, pin_memory=True)
        host.copy_(tensor.float(), non_blocking=True)
        torch.cuda.current_stream(tensor.device).synchronize()
    else:
        host = tensor.float()
    array: NDArray[np.float32] = host.numpy()
    return array
