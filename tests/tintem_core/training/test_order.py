import numpy as np
import pytest

from tintem_core.errors import InputError
from tintem_core.training.order import EpochOrder


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 10, 97, 1000, 20_011])
def test_every_row_comes_once_per_epoch(rows):
    order = EpochOrder(rows=rows, seed=3)
    for epoch in (0, 1):
        assert sorted(order.at(epoch, np.arange(rows)).tolist()) == list(range(rows))


def test_epochs_and_seeds_differ_but_each_is_reproducible():
    everything = np.arange(1000)
    first = EpochOrder(rows=1000, seed=1).at(0, everything)
    np.testing.assert_array_equal(first, EpochOrder(rows=1000, seed=1).at(0, everything))
    for other in (
        EpochOrder(rows=1000, seed=1).at(1, everything),
        EpochOrder(rows=1000, seed=2).at(0, everything),
    ):
        assert (first == other).mean() < 0.02


def test_the_order_never_changes_between_versions():
    small, large = EpochOrder(rows=10, seed=0), EpochOrder(rows=10**7, seed=7)
    assert "".join(map(str, small.at(0, np.arange(10)))) == "5862074913"
    assert large.at(2, np.array([0, 9_999_999])).tolist() == [1_345_848, 6_933_298]


def test_the_shuffle_is_global_and_even():
    """Where row 0 … 9 land over many epochs is uniform (chi-square, 9 degrees: 99.9 % at 27.9)."""
    order = EpochOrder(rows=10, seed=11)
    counts = np.zeros((10, 10))
    for epoch in range(3000):
        counts[np.arange(10), order.at(epoch, np.arange(10))] += 1
    assert (((counts - 300) ** 2 / 300).sum(axis=1) < 33).all()
    far = EpochOrder(rows=10**6, seed=1).at(0, np.arange(10**5))
    assert abs(np.corrcoef(np.arange(10**5), far)[0, 1]) < 0.02
    neighbours = np.abs(np.diff(far))
    assert abs(neighbours.mean() / (10**6 / 3) - 1) < 0.02


def test_positions_out_of_range_are_refused():
    with pytest.raises(InputError, match="rows of an epoch"):
        EpochOrder(rows=5).at(0, np.array([5]))
