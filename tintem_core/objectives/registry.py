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
"""

import torch

from tintem_core.objectives.base import Objective, ObjectiveKind, Parts
from tintem_core.objectives.head import LINEAR_COSINE, PROTEUS
from tintem_core.objectives.labels import SUPERVISED
from tintem_core.objectives.mapped import TINTEM

OBJECTIVES: dict[str, ObjectiveKind] = {
    "tintem": TINTEM,
    "proteus": PROTEUS,
    "linear-cosine": LINEAR_COSINE,
    "supervised": SUPERVISED,
}


def build_objective(name: str, parts: Parts, seed: int = 0) -> Objective:
    """Build an objective with reproducible initial weights.

    Args:
        name: of OBJECTIVES.
        parts: what it is built from.
        seed: of the initial weights of a head.

    Raises:
        InputError: `supervised` with fewer than two classes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OBJECTIVES[name].build(parts)
