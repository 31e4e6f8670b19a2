"""An objective by its name."""

import torch

from tintem_core.objectives.base import Objective, Parts
from tintem_core.objectives.kinds import OBJECTIVES


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
