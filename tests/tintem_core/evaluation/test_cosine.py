import numpy as np
import pytest

from tintem_core.errors import ShapeError
from tintem_core.evaluation.cosine import row_cosines


def test_cosines_are_those_of_the_formula_over_all_numbers_of_a_row() -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((5, 3, 4))
    second = (first + 0.1 * rng.standard_normal(first.shape)).astype(np.float16)
    for found, a, b in zip(row_cosines(first, second), first, second.astype(float), strict=True):
        assert found == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def test_zero_rows_agree_only_with_zero_rows_and_nan_is_never_hidden() -> None:
    first = np.array([[0, 0], [0, 0], [1, 0], [np.nan, 1]])
    second = np.array([[0, 0], [1, 0], [0, 0], [1, 1]])
    np.testing.assert_array_equal(row_cosines(first, second), [1, 0, 0, np.nan])


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ShapeError, match="differ in shape"):
        row_cosines(np.ones((2, 3)), np.ones((2, 4)))
