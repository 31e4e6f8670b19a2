"""The baseline without a teacher.

Legend: ``B`` batch, ``T`` teacher's patch tokens, ``K`` student width.
"""

from torch import Tensor, nn

from tintem_core.errors import InputError
from tintem_core.objectives.base import Parts, Targets
from tintem_core.objectives.head import WithHead


class MatchLabels(WithHead):
    """The baseline without a teacher: a linear classifier, cross-entropy."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, classes)

    def forward(self, embedding_BK: Tensor, tokens_BTK: Tensor | None, targets: Targets) -> Tensor:
        del tokens_BTK
        assert targets.labels is not None
        return nn.functional.cross_entropy(self.head(embedding_BK), targets.labels)


def match_labels(parts: Parts) -> MatchLabels:
    if parts.classes < 2:
        raise InputError(
            f"training.objective 'supervised' needs labels of at least two classes, but "
            f"the training photos have {parts.classes}: give data.label_column or class folders."
        )
    return MatchLabels(parts.mapping.linear.out_features, parts.classes)
