"""What a student is asked for, as a config says it."""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from tintem_core.objectives.kinds import OBJECTIVES, ObjectiveKind
from tintem_core.objectives.terms import TermWeights


def _known(name: str) -> str:
    if name not in OBJECTIVES:
        raise ValueError(f"there is no such objective; known are {', '.join(OBJECTIVES)}")
    return name


class ObjectiveConfig(TermWeights, frozen=True, extra="forbid", allow_inf_nan=False):
    """What the student is asked for."""

    objective: Annotated[str, AfterValidator(_known)] = Field(
        "tintem",
        description="tintem: the mapped teacher; baselines: proteus, linear-cosine, supervised",
    )

    @model_validator(mode="after")
    def _has_the_terms_asked_for(self) -> Self:
        if self.local_weight and not self.kind.has_token_term:
            raise ValueError(
                f"objective '{self.objective}' has no patch-token term: set local_weight to 0"
            )
        return self

    @property
    def kind(self) -> ObjectiveKind:
        """What the objective is like."""
        return OBJECTIVES[self.objective]

    def loss_name(self, *, joint: bool = False) -> str:
        """Say what the loss is, to people.

        Args:
            joint: whether the mapping is fitted in the student's step.
        """
        name = self.kind.loss
        if self.kind.uses_mapping and joint:
            name += ", and the mapping's own loss"
        elif self.kind.uses_mapping and self.centred_weight:
            name += ", plain and centred"
        return name + (", with patch tokens" if self.needs_tokens else "")

    @property
    def needs_tokens(self) -> bool:
        """Whether the patch tokens of teacher and student are compared."""
        return self.local_weight > 0
