"""Frozen teachers: images in, embeddings out.

Legend: ``B`` batch, ``T`` tokens, ``D`` teacher width, ``S`` side in pixels.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from tintem_core.models.backbone import (
    Backbone,
    BackboneConfig,
    build_backbone,
    load_weights,
    weights_digest,
)
from tintem_core.models.device import place
from tintem_core.views import Pixels

log = logging.getLogger(__name__)
Precision = Literal["float32", "bfloat16", "float16"]


class TeacherConfig(BackboneConfig, frozen=True, extra="forbid"):
    """The frozen model whose latent space the students learn."""

    weights: str = Field(
        "pretrained",
        description="'pretrained' (fetched by timm) or a path to a .safetensors or .pth file",
    )
    precision: Precision = Field("float32", description="autocast type of the forward pass")
    batch_size: int = Field(64, ge=1, description="images per forward; halved when memory runs out")


@dataclass(frozen=True)
class Embeddings:
    """What a teacher says about a batch: ``embedding`` (B, D) and maybe ``tokens`` (B, T, C)."""

    embedding: NDArray[np.float32]
    tokens: NDArray[np.float32] | None


class Teacher:
    """A frozen backbone in ``eval()`` mode that never builds a graph."""

    def __init__(self, config: TeacherConfig, backbone: Backbone, device: str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        self.digest = weights_digest(backbone)
        self._backbone = place(backbone.eval().requires_grad_(False), self.device)
        self._batch_size = config.batch_size
        self._streams = threading.local()

    @property
    def threads(self) -> int:
        """How many threads should call :meth:`embed` at once to keep the device busy.

        On a GPU, while one waits for its copies the others' forward passes run.
        """
        return 3 if self.device.type == "cuda" else 1

    def pixel_buffer(self, images: int) -> Pixels:
        """Return room for pixels (B, S, S, 3) that the device can copy from without waiting."""
        shape = (images, self.config.image_size, self.config.image_size, 3)
        buffer: Pixels = torch.empty(
            shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda"
        ).numpy()
        return buffer

    @property
    def parameters(self) -> int:
        """Number of parameters, classifier not counted."""
        return sum(p.numel() for p in self._backbone.parameters())

    @property
    def backbone(self) -> Backbone:
        return self._backbone

    def identity(self) -> dict[str, Any]:
        """Return everything that determines an embedding, apart from the pixels."""
        return {
            "model": self.config.model,
            "weights": self.digest,
            "image_size": self.config.image_size,
            "precision": self.config.precision,
            **self._backbone.normalisation,
        }

    def describe(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one image's embedding and tokens, found by a dry run."""
        size = self.config.image_size
        out = self.embed(np.zeros((1, size, size, 3), np.uint8), tokens=True)
        assert out.tokens is not None
        return {"global": out.embedding.shape[1:], "tokens": out.tokens.shape[1:]}

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
                log.warning("out of GPU memory: teacher batch size is now %d", self._batch_size)
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
            with autocast(self.device, self.config.precision):
                if not tokens:
                    return Embeddings(_numpy(self._backbone(batch)), None)
                embedding, patch_tokens = self._backbone.forward_with_tokens(batch)
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


def build_teacher(
    config: TeacherConfig, tensors: Mapping[str, Tensor] | None, device: str = "cpu"
) -> Teacher:
    """Build a teacher, from given tensors or (None) from timm's pretrained weights.

    Raises:
        InputError: see :func:`build_backbone` and :func:`load_weights`.
    """
    backbone = build_backbone(config, pretrained=tensors is None)
    if tensors is not None:
        load_weights(backbone, tensors, source=config.weights)
    return Teacher(config, backbone, device)


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
