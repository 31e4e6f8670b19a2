"""Frozen teachers: images in, embeddings out.

Legend: ``B`` batch, ``T`` tokens, ``D`` teacher width, ``S`` side in pixels.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from tintem_core.errors import InputError
from tintem_core.models.backbone import (
    Backbone,
    BackboneConfig,
    build_backbone,
    load_weights,
    weights_digest,
)
from tintem_core.models.embedder import Embedder, Precision


class TeacherConfig(BackboneConfig, frozen=True, extra="forbid", allow_inf_nan=False):
    """The frozen model whose latent space the students learn."""

    weights: str = Field(
        "pretrained",
        description="'pretrained' (fetched by timm) or a path to a .safetensors or .pth file",
    )
    latents: str | None = Field(
        None,
        description="a file of embeddings of the photos' evaluation view, instead of a model that "
        "gives them: Parquet with a column key or uri and a column embedding, or .npy; `model` is "
        "then any name",
    )
    latents_names: str | None = Field(
        None, description="keys or uris of the rows of an .npy file: text, CSV or Parquet"
    )
    precision: Precision = Field("float32", description="autocast type of the forward pass")
    batch_size: int = Field(
        64, ge=1, le=65_536, description="images per forward; halved when memory runs out"
    )

    @model_validator(mode="before")
    @classmethod
    def _latents_have_a_name(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(given.get("latents"), str):
            name = given["latents"].rpartition("/")[2].rpartition(".")[0]
            return {"model": name or "latents", **given}
        return given

    @model_validator(mode="after")
    def _names_are_of_latents(self) -> "TeacherConfig":
        if self.latents_names is not None and self.latents is None:
            raise ValueError("latents_names names the rows of latents, which is missing")
        return self


class Teacher(Embedder):
    """A frozen backbone in ``eval()`` mode that never builds a graph."""

    def __init__(self, config: TeacherConfig, backbone: Backbone, device: str = "cpu") -> None:
        self.config = config
        self.digest = weights_digest(backbone)
        super().__init__(
            backbone, config.image_size, config.batch_size, device, precision=config.precision
        )

    @property
    def parameters(self) -> int:
        """Number of parameters, classifier not counted."""
        return sum(p.numel() for p in self.backbone.parameters())

    @property
    def width(self) -> int:
        """D, the width of the global embedding."""
        return self.backbone.width

    @property
    def backbone(self) -> Backbone:
        backbone: Backbone = self._module
        return backbone

    def identity(self) -> dict[str, Any]:
        """Return everything that determines an embedding, apart from the pixels."""
        return {
            "model": self.config.model,
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
                f"teacher.model: {self.config.model} cannot be run on images of {size} px: "
                f"{reason[0]}. Choose another teacher.image_size or model."
            ) from error
        shapes = {"global": out.embedding.shape[1:]}
        return shapes if out.tokens is None else {**shapes, "tokens": out.tokens.shape[1:]}


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
