"""What an objective is: the loss of a student's answer, and what it is built from.

Legend: ``B`` batch, ``T`` teacher's patch tokens, ``D`` teacher width, ``K`` student width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, Field
from torch import Tensor, nn

from tintem_core.mapping.config import MappingConfig
from tintem_core.mapping.module import Mapping


class TermWeights(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How much the terms of a loss count."""

    centred_weight: float = Field(
        1.0,
        ge=0,
        le=1e6,
        description="weight of the cosine that is taken from the mean target on (objective tintem, "
        "mapping.fit once): what tells one photo from another",
    )
    local_weight: float = Field(
        0.0,
        ge=0,
        le=1e6,
        description="weight of the patch-token term, the paper has 1; needs cache.tokens",
    )
    local_per_token: bool = Field(
        False, description="compare token by token; false: all tokens of an image as one vector"
    )


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


@dataclass(frozen=True)
class ObjectiveKind:
    """What the rest of TinTeM has to know of an objective.

    build: makes one; the random state of torch is the seed's.
    loss: what the loss is called, by people.
    trained: how the student was trained, for the model card.
    answers: who answers in a space of the teacher's: the student itself in the mapped one, a head
        that lives only in training, or nobody.
    needs_labels: whether it learns from labels, and therefore from no support images.
    has_token_term: whether it compares patch tokens where asked to.
    """

    build: Callable[[Parts], Objective]
    loss: str
    trained: str
    answers: Literal["student", "head"] | None = None
    needs_labels: bool = False
    has_token_term: bool = True

    @property
    def uses_mapping(self) -> bool:
        """Whether the student learns the mapped teacher."""
        return self.answers == "student"
