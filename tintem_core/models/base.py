"""What every model of images is to the rest: pixels in, one global vector and patch tokens out.

Legend: ``B`` batch, ``T`` tokens, ``C`` token width, ``D`` width, ``S`` side in pixels.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tintem_core.errors import InputError

# Of a ViT: none, CLS, CLS and distillation token, CLS and four registers.
_PREFIXES = (0, 1, 2, 5)


class VisionModel(nn.Module, ABC):
    """A model of images with its pixel normalisation.

    Args:
        name: what messages call it.
        mean: per-channel mean of the pixels on a 0..1 scale.
        std: per-channel standard deviation, same scale.
    """

    def __init__(self, name: str, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.name = name
        # Modules differ in their attributes: to the type checker this one can be anything.
        self.model: Any = None
        """The torch module inside, where there is one."""
        self.removed: frozenset[str] = frozenset()
        """Names of the tensors that went with the last stages."""
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    @abstractmethod
    def width(self) -> int:
        """D, the width of the global embedding."""

    @property
    @abstractmethod
    def token_width(self) -> int:
        """C, the width of a patch token; D where the model gives none."""

    @property
    def parameter_count(self) -> int:
        """Number of parameters, classifier not counted."""
        return sum(p.numel() for p in self.parameters())

    @property
    def normalisation(self) -> dict[str, list[float]]:
        return {
            name: [round(float(v), 6) for v in getattr(self, name).flatten()]
            for name in ("mean", "std")
        }

    def settings(self) -> dict[str, Any]:
        """Return what determines the output beside weights and pixels, as JSON can say it."""
        return {}

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Embed images.

        Args:
            pixels: RGB, float, 0..1, shape (B, 3, S, S).

        Returns:
            Global embeddings, shape (B, D), not normalised.
        """

    @abstractmethod
    def forward_with_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Embed images and their patches.

        Returns:
            Global embeddings (B, D), and patch tokens (B, T, C) without prefix tokens, row by row.

        Raises:
            InputError: if the model has several kinds of patch tokens, or none.
        """

    def _normalise(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std

    def _has_no_tokens(self) -> InputError:
        return InputError(
            f"{self.name} gives no single grid of patch tokens: set training.local_weight to 0 and "
            "cache.tokens to false, or choose another model."
        )


def prefix_tokens(count: int) -> int:
    """Return how many of a model's tokens come before the patches: what is left forms a square.

    0 where no usual number leaves a square.
    """
    return next((p for p in _PREFIXES if 0 < count - p == math.isqrt(count - p) ** 2), 0)


def pooled(tokens_BTC: Tensor, prefix: int, pool: str) -> Tensor:
    """Return one vector (B, C) of all tokens.

    Args:
        tokens_BTC: prefix tokens first.
        prefix: how many of them there are.
        pool: ``cls``, the first token, or ``mean``, over the patches.
    """
    return tokens_BTC[:, 0] if pool == "cls" else tokens_BTC[:, prefix:].mean(dim=1)
