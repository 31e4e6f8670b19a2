"""What a student is asked for in training, one small strategy each.

An objective owns what lives only during the training (a head, a mapping that is still being
fitted) and says what the loss is; the exported student is the same for all of them, so that a
baseline differs from TinTeM in the objective alone.

| objective     | head in training       | loss                                         |
|---------------|------------------------|----------------------------------------------|
| tintem        | none                   | 1 - cos(s, h(t)) + 1 - cos(s - m, h(t) - m), |
|               |                        | m the mean of h(t); joint: + loss of h       |
| proteus       | LayerNorm + Linear K→D | mean squared error to t (arXiv 2407.10366)   |
| linear-cosine | Linear K→D             | 1 - cos to t                                 |
| supervised    | Linear K→classes       | cross-entropy with the labels                |

All but `supervised` add the same loss over the patch tokens, times ``local_weight``.

Legend: ``B`` batch, ``T`` teacher's patch tokens, ``D`` teacher width, ``K`` student width.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tintem_core.errors import InputError
from tintem_core.losses import (
    centred_cosine_loss,
    cosine_student_loss,
    gather_with_grad,
    proteus_loss,
)
from tintem_core.mapping import Mapping, MappingConfig, mapping_loss

ObjectiveName = Literal["tintem", "proteus", "linear-cosine", "supervised"]


class ObjectiveConfig(BaseModel, frozen=True, extra="forbid"):
    """What the student is asked for."""

    objective: ObjectiveName = Field(
        "tintem",
        description="tintem: the mapped teacher; baselines: proteus, linear-cosine, supervised",
    )
    centred_weight: float = Field(
        1.0,
        ge=0,
        description="weight of the cosine that is taken from the mean target on (objective tintem, "
        "mapping.fit once): what tells one photo from another",
    )
    local_weight: float = Field(
        0.0, ge=0, description="weight of the patch-token term, the paper has 1; needs cache.tokens"
    )
    local_per_token: bool = Field(
        False, description="compare token by token; false: all tokens of an image as one vector"
    )

    @model_validator(mode="after")
    def _labels_have_no_tokens(self) -> Self:
        if self.objective == "supervised" and self.local_weight:
            raise ValueError(
                "objective 'supervised' has no patch-token term: set local_weight to 0"
            )
        return self

    def loss_name(self, *, joint: bool = False) -> str:
        """Say what the loss is, to people.

        Args:
            joint: whether the mapping is fitted in the student's step.
        """
        name = {
            "tintem": "1 − cosine to the mapped teacher",
            "proteus": "squared error to the teacher, through the head",
            "linear-cosine": "1 − cosine to the teacher, through the head",
            "supervised": "cross-entropy with the labels",
        }[self.objective]
        if self.objective == "tintem" and joint:
            name += ", and the mapping's own loss"
        elif self.objective == "tintem" and self.centred_weight:
            name += ", plain and centred"
        return name + (", with patch tokens" if self.needs_tokens else "")

    @property
    def needs_tokens(self) -> bool:
        """Whether the patch tokens of teacher and student are compared."""
        return self.local_weight > 0


@dataclass(frozen=True)
class Targets:
    """What is known about a batch: latents (B, D), maybe tokens (B, T, D), labels (B,) int64.

    Tokens are (B, T, K) for an objective that was told so: see :class:`MatchMapped`.
    """

    latents: Tensor
    tokens: Tensor | None = None
    labels: Tensor | None = None


class Objective(nn.Module, ABC):
    """The loss of a student's answer, and whatever lives only as long as the training."""

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


class MatchMapped(Objective):
    """TinTeM: the student's own embedding is the mapped teacher (arXiv 2411.15239; docs/method.md).

    Args:
        mapping: h; trained in the same step if ``joint`` is given.
        joint: how h is fitted, or None for a frozen h.
        settings: the weights of the centred and of the local term.
        centre: the mean of the unit targets, (K,); None for no centred term.
        tokens_are_mapped: whether the targets' tokens come as h(t), (B, T, K).
    """

    def __init__(
        self,
        mapping: Mapping,
        joint: MappingConfig | None,
        settings: ObjectiveConfig,
        *,
        centre: Tensor | None = None,
        tokens_are_mapped: bool = False,
    ) -> None:
        super().__init__()
        self.centre: Tensor | None
        self.register_buffer("centre", centre)
        self._tokens_are_mapped = tokens_are_mapped
        self.mapping = mapping.requires_grad_(joint is not None)
        self._joint, self._settings = joint, settings

    def forward(self, embedding_BK: Tensor, tokens_BTK: Tensor | None, targets: Targets) -> Tensor:
        mapped = self.mapping(targets.latents)
        loss = self._term(embedding_BK, targets.latents, mapped, per_token=False)
        if self.centre is not None:
            centred = centred_cosine_loss(embedding_BK, mapped, self.centre)
            loss = loss + self._settings.centred_weight * centred
        if tokens_BTK is not None and targets.tokens is not None:
            per_token = self._settings.local_per_token
            if self._tokens_are_mapped:
                local = cosine_student_loss(tokens_BTK, targets.tokens, per_token)
            else:
                mapped = self.mapping(targets.tokens)
                local = self._term(tokens_BTK, targets.tokens, mapped, per_token=per_token)
            loss = loss + self._settings.local_weight * local
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


class _WithHead(Objective):
    head: nn.Module

    def trained_state(self) -> dict[str, Tensor]:
        return self.head.state_dict()

    def load_trained(self, tensors: dict[str, Tensor]) -> None:
        self.head.load_state_dict(tensors)


class MatchThroughHead(_WithHead):
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


class MatchLabels(_WithHead):
    """The baseline without a teacher: a linear classifier, cross-entropy."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, classes)

    def forward(self, embedding_BK: Tensor, tokens_BTK: Tensor | None, targets: Targets) -> Tensor:
        del tokens_BTK
        assert targets.labels is not None
        return nn.functional.cross_entropy(self.head(embedding_BK), targets.labels)


def build_objective(
    settings: ObjectiveConfig,
    mapping: Mapping,
    joint: MappingConfig | None = None,
    *,
    classes: int = 0,
    seed: int = 0,
    centre: Tensor | None = None,
    tokens_are_mapped: bool = False,
) -> Objective:
    """Build an objective with reproducible initial weights.

    Args:
        settings: which one.
        mapping: h from D to K; used by `tintem`, the others take only the widths from it.
        joint: how h is fitted in the student's step; None for a mapping fitted before.
        classes: number of labels, for `supervised`.
        seed: of the head's initial weights.
        centre: see :class:`MatchMapped`.
        tokens_are_mapped: see :class:`MatchMapped`; for `tintem` alone.

    Raises:
        InputError: `supervised` with fewer than two classes.
    """
    dim, width = mapping.linear.in_features, mapping.linear.out_features
    if settings.objective == "tintem":
        return MatchMapped(
            mapping, joint, settings, centre=centre, tokens_are_mapped=tokens_are_mapped
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.objective == "supervised":
            if classes < 2:
                raise InputError(
                    f"training.objective 'supervised' needs labels of at least two classes, but "
                    f"the training photos have {classes}: give data.label_column or class folders."
                )
            return MatchLabels(width, classes)
        if settings.objective == "proteus":
            head: nn.Module = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, dim))
            return MatchThroughHead(head, proteus_loss, settings.local_weight)
        cosine = partial(cosine_student_loss, per_token=settings.local_per_token)
        return MatchThroughHead(nn.Linear(width, dim), cosine, settings.local_weight)
