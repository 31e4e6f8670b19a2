"""Students: a timm backbone and, where the widths differ, one linear projection to K.

The student's own embedding is the answer; there is no head to throw away at export.

Legend: ``B`` batch, ``K`` student width, ``S`` side in pixels.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from tintem_core.backbones import Backbone, BackboneConfig, build_backbone


class StudentConfig(BackboneConfig, frozen=True, extra="forbid"):
    """The small model that is trained."""

    pretrained: bool = Field(False, description="start from timm's weights instead of from scratch")


class Student(nn.Module):
    """A backbone whose output lives in the mapped teacher space.

    Args:
        backbone: the timm model.
        width: K, width of the mapped teacher space.
    """

    def __init__(self, backbone: Backbone, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection = (
            nn.Identity() if backbone.width == width else nn.Linear(backbone.width, width)
        )

    @property
    def has_projection(self) -> bool:
        """Whether a projection was needed (it is then part of the exported model)."""
        return isinstance(self.projection, nn.Linear)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed images: float RGB 0..1 (B, 3, S, S) to (B, K), not normalised."""
        embedding: Tensor = self.projection(self.backbone(pixels))
        return embedding


def natural_width(config: StudentConfig) -> int:
    """Return the width of a student's embedding before any projection."""
    with torch.random.fork_rng(devices=[]):
        return build_backbone(config).width


def build_student(config: StudentConfig, width: int, seed: int) -> Student:
    """Build a student with reproducible initial weights.

    Raises:
        InputError: if timm cannot build the model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Student(build_backbone(config, pretrained=config.pretrained), width)
