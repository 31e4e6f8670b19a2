"""Students: a backbone and, where the widths differ, one linear projection to K.

The student's own embedding is the answer; there is no head to throw away at export.

Legend: ``B`` batch, ``T`` teacher's patch tokens, ``K`` student width, ``S`` side in pixels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tintem_core.errors import WeightsError
from tintem_core.models.backbone import (
    build_backbone,
    load_matching,
    load_weights,
    resample_tokens,
    weights_digest,
)
from tintem_core.models.base import VisionModel
from tintem_core.models.config import StudentConfig
from tintem_core.models.python import build_python


class Student(nn.Module):
    """A backbone whose output lives in the mapped teacher space.

    Args:
        backbone: the model.
        width: K, width of the mapped teacher space.
        tokens: whether patch tokens are wanted in that space too. They share the projection,
            unless the backbone's tokens are not as wide as its embedding.
    """

    def __init__(self, backbone: VisionModel, width: int, *, tokens: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = (
            nn.Identity() if backbone.width == width else nn.Linear(backbone.width, width)
        )
        self.token_projection: nn.Linear | None = None
        if tokens and backbone.token_width != backbone.width:
            self.token_projection = nn.Linear(backbone.token_width, width)

    @property
    def has_projection(self) -> bool:
        """Whether a projection was needed (it is then part of the exported model)."""
        return isinstance(self.projection, nn.Linear)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed images: float RGB 0..1 (B, 3, S, S) to (B, K), not normalised."""
        embedding: Tensor = self.projection(self.backbone(pixels))
        return embedding

    def with_tokens(self, pixels: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Embed images and their patches.

        Args:
            pixels: as for :meth:`forward`.
            count: T; the student's tokens are resampled to the teacher's grid. None: its own grid.

        Returns:
            Embeddings (B, K) and float32 tokens (B, T, K), row by row.
        """
        embedding, tokens = self.backbone.forward_with_tokens(pixels)
        tokens = (self.token_projection or self.projection)(tokens)
        if count is not None:
            tokens = resample_tokens(tokens, count)
        return self.projection(embedding), tokens


def natural_width(config: StudentConfig) -> int:
    """Return the width of a student's embedding before any projection."""
    with torch.random.fork_rng(devices=[]):
        return _backbone(config).width


def pretrained_digest(config: StudentConfig) -> str:
    """Return the digest of the weights that timm has for a student.

    Raises:
        InputError: if timm cannot build the model, or its weights cannot be fetched.
    """
    with torch.random.fork_rng(devices=[]):
        # What timm initialises anew (a patch size that the weights do not have) is the same then.
        torch.manual_seed(0)
        return weights_digest(_backbone(config, pretrained=True))


def build_student(config: StudentConfig, width: int, seed: int, *, tokens: bool = False) -> Student:
    """Build a student with reproducible initial weights, as in :class:`Student`.

    Raises:
        InputError: if the model cannot be built.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Student(_backbone(config, pretrained=config.pretrained), width, tokens=tokens)


def constant_digest(config: StudentConfig) -> str:
    """Return the digest of what a Python student starts with whatever the seed: weights it loads.

    Raises:
        InputError: if its function does not give a module.
    """
    first, second = (build_student(config, 1, seed).backbone.model for seed in (0, 1))
    other = second.state_dict()
    drawn = [name for name, tensor in first.state_dict().items() if not tensor.equal(other[name])]
    return weights_digest(first, without=drawn)


def _backbone(config: StudentConfig, *, pretrained: bool = False) -> VisionModel:
    if config.python is not None:
        return build_python(config, options=config.options)
    backbone = build_backbone(config, pretrained=pretrained, options=config.options)
    if config.stages is not None:
        backbone.keep_stages(config.stages, config.image_size)
    return backbone


def warm_start(
    student: Student, tensors: Mapping[str, Tensor], source: str, *, partial: bool = False
) -> int:
    """Load a file's weights into a student that has not been trained; return how many tensors.

    Args:
        student: changed in place.
        tensors: a timm model's weights (the backbone is loaded), or those of a TinTeM student (its
            projections are loaded too, where they have the same shape).
        source: where the tensors come from, for messages.
        partial: take what fits by name and shape.

    Raises:
        WeightsError: if something does not fit, or nothing does.
    """
    prefix = "backbone.model."
    if any(name.startswith(prefix) for name in tensors):
        rest = {k: v for k, v in tensors.items() if not k.startswith(prefix)}
        taken = load_matching(student, rest)
        tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    else:
        taken = 0
    if not partial:
        return taken + load_weights(student.backbone, tensors, source)
    taken += load_matching(student.backbone.model, tensors)
    if not taken:
        raise WeightsError(
            f"no tensor of {source} fits {student.backbone.name} by name and shape: give the "
            "weights of a related model."
        )
    return taken
