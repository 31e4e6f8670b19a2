"""The objectives by name.

| objective     | head in training       | loss                                         |
|---------------|------------------------|----------------------------------------------|
| tintem        | none                   | 1 - cos(s, h(t)) + 1 - cos(s - m, h(t) - m), |
|               |                        | m the mean of h(t); joint: + loss of h       |
| proteus       | LayerNorm + Linear K→D | mean squared error to t (arXiv 2407.10366)   |
| linear-cosine | Linear K→D             | 1 - cos to t                                 |
| supervised    | Linear K→classes       | cross-entropy with the labels                |

All but `supervised` add the same loss over the patch tokens, times ``local_weight``. The exported
student is the same for all of them, so that a baseline differs from TinTeM in the objective alone.

Needs no torch before one is built: a config is checked in no time.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tintem_core.objectives.base import Objective, Parts


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

    build: Callable[["Parts"], "Objective"]
    loss: str
    trained: str
    answers: Literal["student", "head"] | None = None
    needs_labels: bool = False
    has_token_term: bool = True

    @property
    def uses_mapping(self) -> bool:
        """Whether the student learns the mapped teacher."""
        return self.answers == "student"


def _later(place: str) -> Callable[["Parts"], "Objective"]:
    """Return a function that is looked up, as module:name, when it is called."""

    def build(parts: "Parts") -> "Objective":
        found: Objective = pkgutil.resolve_name(place)(parts)
        return found

    return build


OBJECTIVES: dict[str, ObjectiveKind] = {
    "tintem": ObjectiveKind(
        build=_later("tintem_core.objectives.mapped:match_mapped"),
        loss="1 − cosine to the mapped teacher",
        trained="trained without labels to give the teacher's embedding, mapped to its own width",
        answers="student",
    ),
    "proteus": ObjectiveKind(
        build=_later("tintem_core.objectives.head:proteus"),
        loss="squared error to the teacher, through the head",
        trained="trained without labels to give the teacher's embedding through a head of its own",
        answers="head",
    ),
    "linear-cosine": ObjectiveKind(
        build=_later("tintem_core.objectives.head:linear_cosine"),
        loss="1 − cosine to the teacher, through the head",
        trained="trained without labels to give the teacher's embedding through a head of its own",
        answers="head",
    ),
    "supervised": ObjectiveKind(
        build=_later("tintem_core.objectives.labels:match_labels"),
        loss="cross-entropy with the labels",
        trained="trained on the labels of its photos, without the teacher",
        needs_labels=True,
        has_token_term=False,
    ),
}
