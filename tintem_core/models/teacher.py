"""Frozen teachers: images in, embeddings out.

Legend: ``B`` batch, ``T`` tokens, ``D`` teacher width, ``S`` side in pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tintem_core.errors import InputError
from tintem_core.models.backbone import build_backbone, load_weights, weights_digest
from tintem_core.models.base import VisionModel
from tintem_core.models.config import TeacherConfig
from tintem_core.models.embedder import Embedder
from tintem_core.models.python import NO_MEAN, NO_STD, build_python


@dataclass(frozen=True)
class Source:
    """What was read of a teacher's files by those who know paths."""

    tensors: Mapping[str, Tensor] | None = None
    """Weights for a timm model; None: timm fetches them."""
    digest: str = ""
    """Of an ONNX model's files, or of a Python function's code."""
    parameters: int = 0
    """How many an ONNX model has."""


class Teacher(Embedder):
    """A frozen model in ``eval()`` mode that never builds a graph."""

    def __init__(
        self, config: TeacherConfig, backbone: VisionModel, device: str = "cpu", digest: str = ""
    ) -> None:
        """Freeze a model.

        Args:
            config: which one it is.
            backbone: the model.
            device: where it computes.
            digest: see :class:`Source`.
        """
        self.config = config
        self.digest = digest if config.kind == "onnx" else weights_digest(backbone)
        self._code = digest if config.kind == "python" else None
        super().__init__(
            backbone, config.image_size, config.batch_size, device, precision=config.precision
        )

    @property
    def parameters(self) -> int:
        """Number of parameters, classifier not counted."""
        return self.backbone.parameter_count

    @property
    def width(self) -> int:
        """D, the width of the global embedding."""
        return self.backbone.width

    @property
    def backbone(self) -> VisionModel:
        backbone: VisionModel = self._module
        return backbone

    def identity(self) -> dict[str, Any]:
        """Return everything that determines an embedding, apart from the pixels."""
        # A file's or a folder's name says nothing of what is inside.
        named = {self.config.kind: self.config.name} if self.config.kind in _NAMED else {}
        code = {} if self._code is None else {"code": self._code}
        return {
            **named,
            **code,
            **self.backbone.settings(),
            "weights": self.digest,
            "image_size": self.config.image_size,
            "precision": self.config.precision,
            **self.backbone.normalisation,
        }

    def describe(self, *, tokens: bool = False) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one image's embedding and tokens, found by a dry run.

        Args:
            tokens: whether patch tokens are needed; else there is none of a teacher without a
                single grid of them.

        Raises:
            InputError: if the model cannot be run at this size, or has not the tokens needed.
        """
        size = self.config.image_size
        grey = np.full((1, size, size, 3), 127, np.uint8)
        try:
            try:
                out = self.embed(grey, tokens=True)
            except InputError:
                if tokens:
                    raise
                out = self.embed(grey)
        except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"teacher.{self.config.kind}: {self.config.name} cannot be run on images of {size} "
                f"px: {reason[0]}. Choose another teacher.image_size or model."
            ) from error
        if not np.isfinite(out.embedding).all():
            raise InputError(
                f"teacher.{self.config.kind}: {self.config.name} gives numbers that are not finite "
                f"for a grey image of {size} px: look at its weights, and at teacher.precision."
            )
        shapes = {"global": out.embedding.shape[1:]}
        return shapes if out.tokens is None else {**shapes, "tokens": out.tokens.shape[1:]}


def build_teacher(config: TeacherConfig, source: Source, device: str = "cpu") -> Teacher:
    """Build a teacher.

    Args:
        config: which one.
        source: what its files hold.
        device: where it computes.

    Raises:
        InputError: if it cannot be built or loaded; the sentence names the setting.
    """
    backbone = _BUILDERS[config.kind](config, source, device)
    return Teacher(config, backbone, device, source.digest)


def _build_timm(config: TeacherConfig, source: Source, _device: str) -> VisionModel:
    backbone = build_backbone(config, pretrained=source.tensors is None)
    if source.tensors is not None:
        load_weights(backbone, source.tensors, source=config.weights)
    return backbone


def _build_onnx(config: TeacherConfig, source: Source, device: str) -> VisionModel:
    # Only here: machines that train have no ONNX Runtime.
    from tintem_core.models.onnx import OnnxModel, OnnxSettings

    settings = OnnxSettings(
        config.mean or NO_MEAN,
        config.std or NO_STD,
        config.scale or 1,
        config.layout,
        config.input,
        config.output,
        config.tokens,
        config.prefix_tokens,
        config.pool,
    )
    return OnnxModel(config.onnx or "", settings, config.image_size, device, source.parameters)


def _build_hf(config: TeacherConfig, _source: Source, _device: str) -> VisionModel:
    if find_spec("transformers") is None:
        raise InputError(
            "teacher.hf needs the package transformers: pip install 'tintem[hf]' (in this "
            "repository: pip install '.[hf]')."
        )
    from tintem_core.models.hf import build_hf

    return build_hf(config.hf or "", config.mean, config.std, config.image_size, config.pool)


def _build_python(config: TeacherConfig, _source: Source, _device: str) -> VisionModel:
    with torch.random.fork_rng(devices=[]):
        # What the function draws is the same in every process.
        torch.manual_seed(0)
        return build_python(config, config.mean or NO_MEAN, config.std or NO_STD)


_NAMED = ("model", "python")
_BUILDERS: dict[str, Callable[[TeacherConfig, Source, str], VisionModel]] = {
    "model": _build_timm,
    "onnx": _build_onnx,
    "hf": _build_hf,
    "python": _build_python,
}
"""By :attr:`TeacherConfig.kind`."""
