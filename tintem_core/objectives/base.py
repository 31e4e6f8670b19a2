"""What an objective is: the loss of a student's answer, and what it is built from.

Legend: ``B`` batch, ``T`` teacher's patch tokens, ``D`` teacher width, ``K`` student width.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from tintem_core.mapping.config import MappingConfig
from tintem_core.mapping.module import Mapping
from tintem_core.objectives.terms import TermWeights


@dataclass(frozen=True)
class Targets:
    """What is known about a batch: latents (B, D), maybe tokens (B, T, D), labels (B,) int64.

    Tokens are (B, T, K) for an objective that was told so: see :class:`MatchMapped`.
    """

    latents: Tensor
    tokens: Tensor | None = None
    labels: Tensor | None = None


class Objective(nn.Module, ABC):
    """The loss of a student's answer, and whatever lives only as long as the training.

    ``mapping`` is h where the student's own embedding is asked to be h(t), else None.
    """

    mapping: Mapping | None

    def __init__(self) -> None:
        super().__init__()
        self.mapping = None

    @abstractmethod
    def forward(self, embedding_BK: Tensor, tokens_BTK: Tensor | None, targets: Targets) -> Tensor:
        """Return the loss, a float32 scalar.

        Args:
            embedding_BK: the student's embeddings, float32.
            tokens_BTK: the student's tokens on the teacher's grid; None without local term.
            targets: the teacher's side.
        """

    def through_head(self, embedding_BK: Tensor) -> Tensor | None:
        """Return embeddings (B, D) in the teacher's space; None where no head leads there."""
        del embedding_BK
        return None

    def compared(self, embedding_BK: Tensor, latents_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is to point the same way: the student's side and the teacher's.

        Both (B, K), or (B, D) behind a head. Not for `supervised`, which has no teacher.
        """
        through = self.through_head(embedding_BK)
        assert through is not None
        return through, latents_BD

    @property
    def compares_images(self) -> bool:
        """Whether the loss of a batch is more than the mean over its images."""
        return False

    def trained_state(self) -> dict[str, Tensor]:
        """Return what was trained beside the student, in plain weights; empty where nothing was."""
        return {}

    def load_trained(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a :meth:`trained_state`."""
        del tensors


@dataclass(frozen=True)
class Parts:
    """What an objective may be built from.

    mapping: h from D to K; the others than `tintem` take only the widths from it.
    weights: of the terms.
    joint: how h is fitted in the student's step; None for a mapping fitted before.
    classes: number of labels.
    centre: the mean of the unit targets, (K,); None for no centred term.
    tokens_are_mapped: whether the targets' tokens come as h(t), (B, T, K).
    """

    mapping: Mapping
    weights: TermWeights
    joint: MappingConfig | None = None
    classes: int = 0
    centre: Tensor | None = None
    tokens_are_mapped: bool = False
