"""Baselines that reach the teacher through a head, which is not exported.

Legend: ``B`` batch, ``T`` teacher's patch tokens, ``D`` teacher width, ``K`` student width.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from tintem_core.losses.cosine import cosine_student_loss
from tintem_core.losses.regression import proteus_loss
from tintem_core.objectives.base import Objective, Parts, Targets


class WithHead(Objective):
    """What was trained beside the student is one head."""

    head: nn.Module

    def trained_state(self) -> dict[str, Tensor]:
        return self.head.state_dict()

    def load_trained(self, tensors: dict[str, Tensor]) -> None:
        self.head.load_state_dict(tensors)


class MatchThroughHead(WithHead):
    """A baseline: the student reaches the teacher through a head that is not exported.

    Args:
        head: (..., K) to (..., D), shared by embeddings and tokens.
        loss: of (B, D) and of (B, T, D).
        local_weight: of the token term.
    """

    def __init__(
        self, head: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], local_weight: float
    ) -> None:
        super().__init__()
        self.head = head
        self._loss, self._local_weight = loss, local_weight

    def forward(self, embedding_BK: Tensor, tokens_BTK: Tensor | None, targets: Targets) -> Tensor:
        loss = self._loss(self.head(embedding_BK), targets.latents)
        if tokens_BTK is not None and targets.tokens is not None:
            local = self._loss(self.head(tokens_BTK), targets.tokens)
            loss = loss + self._local_weight * local
        return loss

    def through_head(self, embedding_BK: Tensor) -> Tensor | None:
        through: Tensor = self.head(embedding_BK)
        return through


def _widths(parts: Parts) -> tuple[int, int]:
    return parts.mapping.linear.out_features, parts.mapping.linear.in_features


def proteus(parts: Parts) -> Objective:
    width, dim = _widths(parts)
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))
    return MatchThroughHead(head, proteus_loss, parts.weights.local_weight)


def linear_cosine(parts: Parts) -> Objective:
    cosine = partial(cosine_student_loss, per_token=parts.weights.local_per_token)
    return MatchThroughHead(nn.Linear(*_widths(parts)), cosine, parts.weights.local_weight)
