import numpy as np
import pytest

from tintem_core.errors import DegenerateError, ShapeError
from tintem_core.fidelity import explained_variance, row_cosines


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


def test_explained_variance_is_one_for_the_targets_and_zero_for_their_mean() -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(1, 1, (50, 8))
    unit = targets / np.linalg.norm(targets, axis=1, keepdims=True)
    assert explained_variance(3 * targets, targets) == pytest.approx(1)
    noisy = unit + rng.normal(0, 0.05, unit.shape)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    by_hand = 1 - ((noisy - unit) ** 2).sum() / ((unit - unit.mean(0)) ** 2).sum()
    assert explained_variance(noisy, targets) == pytest.approx(by_hand, abs=1e-6)
    # The mean direction has length 1 like every answer: a little worse than the mean itself.
    constant = np.tile(unit.mean(0), (50, 1))
    assert -1 < explained_variance(constant, targets) < 0
    assert explained_variance(-targets, targets) < -1


def test_explained_variance_of_nothing_that_varies_is_refused() -> None:
    same = np.ones((4, 3), np.float32)
    with pytest.raises(DegenerateError, match="no variance to explain"):
        explained_variance(same, same)
    with pytest.raises(ShapeError, match="differ in shape"):
        explained_variance(same, same[:2])
