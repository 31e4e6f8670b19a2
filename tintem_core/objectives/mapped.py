"""TinTeM: the student's own embedding is the mapped teacher.

Legend: ``B`` batch, ``T`` teacher's patch tokens, ``D`` teacher width, ``K`` student width.
"""

from torch import Tensor
from torch.nn.utils import parametrize

from tintem_core.distributed import gather_with_grad
from tintem_core.losses.cosine import centred_cosine_loss, cosine_student_loss
from tintem_core.mapping.config import MappingConfig
from tintem_core.mapping.fit import mapping_loss
from tintem_core.mapping.module import Mapping
from tintem_core.objectives.base import Objective, Parts, Targets
from tintem_core.objectives.terms import TermWeights


class MatchMapped(Objective):
    """TinTeM: the student's own embedding is the mapped teacher (arXiv 2411.15239; docs/method.md).

    Args:
        mapping: h; trained in the same step if ``joint`` is given.
        joint: how h is fitted, or None for a frozen h.
        weights: of the centred and of the local term.
        centre: the mean of the unit targets, (K,); None for no centred term.
        tokens_are_mapped: whether the targets' tokens come as h(t), (B, T, K).
    """

    def __init__(
        self,
        mapping: Mapping,
        joint: MappingConfig | None,
        weights: TermWeights,
        *,
        centre: Tensor | None = None,
        tokens_are_mapped: bool = False,
    ) -> None:
        super().__init__()
        self.centre: Tensor | None
        self.register_buffer("centre", centre)
        self._tokens_are_mapped = tokens_are_mapped
        self.mapping: Mapping = mapping.requires_grad_(joint is not None)
        self._joint, self._weights = joint, weights

    def forward(self, embedding_BK: Tensor, tokens_BTK: Tensor | None, targets: Targets) -> Tensor:
        mapped = self.mapping(targets.latents)
        loss = self._term(embedding_BK, targets.latents, mapped, per_token=False)
        if self.centre is not None:
            centred = centred_cosine_loss(embedding_BK, mapped, self.centre)
            loss = loss + self._weights.centred_weight * centred
        if tokens_BTK is not None and targets.tokens is not None:
            per_token = self._weights.local_per_token
            if self._tokens_are_mapped:
                local = cosine_student_loss(tokens_BTK, targets.tokens, per_token)
            else:
                mapped = self.mapping(targets.tokens)
                local = self._term(tokens_BTK, targets.tokens, mapped, per_token=per_token)
            loss = loss + self._weights.local_weight * local
        return loss

    def compared(self, embedding_BK: Tensor, latents_BD: Tensor) -> tuple[Tensor, Tensor]:
        return embedding_BK, self.mapping(latents_BD)

    @property
    def compares_images(self) -> bool:
        return self._joint is not None

    def trained_state(self) -> dict[str, Tensor]:
        if self._joint is None:
            return {}
        if parametrize.is_parametrized(self.mapping.linear):
            # Not `plain()` of a copy: copies share the class that it would change.
            return {"linear.weight": self.mapping.linear.weight.detach().clone()}
        return self.mapping.state_dict()

    def load_trained(self, tensors: dict[str, Tensor]) -> None:
        if self._joint is None:
            return
        if parametrize.is_parametrized(self.mapping.linear):
            self.mapping.set_weight(tensors["linear.weight"])
        else:
            self.mapping.load_state_dict(tensors)

    def _term(self, student: Tensor, teacher: Tensor, mapped: Tensor, *, per_token: bool) -> Tensor:
        loss = cosine_student_loss(student, mapped, per_token)
        if self._joint is None:
            return loss
        if teacher.ndim == 2:
            # Embeddings are compared with those of all processes; tokens within their own image.
            teacher, mapped = gather_with_grad(teacher), gather_with_grad(mapped)
        return loss + mapping_loss(self._joint, self.mapping, teacher, mapped)


def match_mapped(parts: Parts) -> Objective:
    return MatchMapped(
        parts.mapping,
        parts.joint,
        parts.weights,
        centre=parts.centre,
        tokens_are_mapped=parts.tokens_are_mapped,
    )
