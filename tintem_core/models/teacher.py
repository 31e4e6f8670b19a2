"""Frozen teachers: images in, embeddings out.

Legend: ``B`` batch, ``T`` tokens, ``D`` teacher width, ``S`` side in pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from tintem_core.errors import InputError
from tintem_core.models.backbone import (
    BackboneConfig,
    build_backbone,
    load_weights,
    weights_digest,
)
from tintem_core.models.base import VisionModel
from tintem_core.models.embedder import Embedder, Precision
from tintem_core.models.python import NO_MEAN, NO_STD, build_python

Triple = tuple[float, float, float]


class TeacherConfig(BackboneConfig, frozen=True, extra="forbid", allow_inf_nan=False):
    """The frozen model whose latent space the students learn."""

    onnx: str | None = Field(None, description="path of an ONNX model, run by ONNX Runtime")
    hf: str | None = Field(
        None,
        description="a vision model of transformers: a folder that save_pretrained wrote, or a "
        "name on the Hugging Face Hub",
    )
    weights: str = Field(
        "pretrained",
        description="of a timm model: 'pretrained' (fetched by timm) or a path to a .safetensors "
        "or .pth file",
    )
    mean: Triple | None = Field(
        None,
        description="per-channel mean that is taken from the pixels; null: what comes with the "
        "model, 0 for python",
    )
    std: Triple | None = Field(
        None,
        description="per-channel standard deviation that they are then divided by; null: what "
        "comes with the model, 1 for python",
    )
    scale: Literal[1, 255] | None = Field(
        None, description="of an ONNX model: a white pixel before mean and std; null: 1"
    )
    layout: Literal["NCHW", "NHWC"] | None = Field(
        None, description="of an ONNX model's input; null: as its shape says, else NCHW"
    )
    input: str | None = Field(None, description="an ONNX model's input; null: the only one")
    output: str | None = Field(
        None, description="an ONNX model's output that is the embedding; null: the only one"
    )
    tokens: str | None = Field(
        None, description="an ONNX model's output of patch tokens, (B, T, C) or (B, C, H, W)"
    )
    prefix_tokens: int | None = Field(
        None,
        ge=0,
        le=1_000,
        description="tokens of an ONNX model before those of the patches; null: so many that the "
        "rest forms a square",
    )
    pool: Literal["pooler", "cls", "mean"] | None = Field(
        None,
        description="which output is the embedding: transformers' pooled one, the first token, the "
        "mean of the patches; null: what is right for the family (hf), one vector (onnx)",
    )
    precision: Precision = Field(
        "float32", description="autocast type of the forward pass; an ONNX model has its own"
    )
    latents: str | None = Field(
        None,
        description="a file of embeddings of the photos' evaluation view, instead of a model that "
        "gives them: Parquet with a column key or uri and a column embedding, or .npy",
    )
    latents_names: str | None = Field(
        None, description="keys or uris of the rows of an .npy file: text, CSV or Parquet"
    )
    batch_size: int = Field(
        64, ge=1, le=65_536, description="images per forward; halved when memory runs out"
    )

    kinds: ClassVar[tuple[str, ...]] = ("model", "onnx", "hf", "python", "latents")
    only_for: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "weights": ("model",),
        **dict.fromkeys(("mean", "std"), ("onnx", "hf", "python")),
        **dict.fromkeys(
            ("scale", "layout", "input", "output", "tokens", "prefix_tokens"), ("onnx",)
        ),
        "pool": ("onnx", "hf"),
        "latents_names": ("latents",),
        "precision": ("model", "hf", "python"),
    }

    @field_validator("std")
    @classmethod
    def _can_be_divided_by(cls, std: Triple | None) -> Triple | None:
        if std is not None and min(std) <= 0:
            raise ValueError("the pixels are divided by it: give three numbers above 0")
        return std

    @model_validator(mode="after")
    def _says_its_normalisation(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give mean and std together")
        if self.kind == "onnx" and self.mean is None:
            raise ValueError(
                "an ONNX file does not say how its pixels are normalised: give mean and std as "
                "it was trained with, or [0, 0, 0] and [1, 1, 1] where it does so inside"
            )
        return self


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
