"""Errors under common corruptions, relative to a reference."""

import numpy as np
import pytest

from tintem_core.errors import DegenerateError
from tintem_core.evaluation.robustness import mean_corruption_error


def test_each_corruption_weighs_alike_however_hard_it_is() -> None:
    reference = np.array([[1, 40], [1, 0]])
    assert mean_corruption_error(reference, reference) == 1
    # Twice the errors under the one, as many under the other.
    assert mean_corruption_error(np.array([[2, 20], [2, 20]]), reference) == 1.5
    with pytest.raises(DegenerateError, match="to be relative to"):
        mean_corruption_error(reference, np.array([[1, 0], [1, 0]]))
