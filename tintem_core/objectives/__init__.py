"""What a student is asked for in training, one small strategy each.

An objective owns what lives only during the training (a head, a mapping that is still being
fitted) and says what the loss is. A new one is a file here and a line of the registry.
"""

from tintem_core.objectives.base import Objective, ObjectiveKind, Parts, Targets, TermWeights
from tintem_core.objectives.config import ObjectiveConfig
from tintem_core.objectives.registry import OBJECTIVES, build_objective

__all__ = [
    "OBJECTIVES",
    "Objective",
    "ObjectiveConfig",
    "ObjectiveKind",
    "Parts",
    "Targets",
    "TermWeights",
    "build_objective",
]
