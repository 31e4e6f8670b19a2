"""Correlations of pairwise cosines, against SciPy and draws made one by one."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from tintem_core.evaluation.bootstrap import multinomial_counts
from tintem_core.evaluation.faithfulness import faithfulness
from tintem_core.evaluation.pairs import mid_ranks, pair_cosines, spearman


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, (2, 60)).astype(float)
    np.testing.assert_array_equal(mid_ranks(first), rankdata(first))
    skewed = np.minimum(second + first, 3)
    assert spearman(first, skewed) == pytest.approx(spearmanr(first, skewed).statistic)


def test_the_interval_of_a_correlation_is_that_of_draws_made_one_by_one() -> None:
    """Of few images, whose draws differ most."""
    rng = np.random.default_rng(1)
    teacher = rng.normal(size=(7, 5))
    student = teacher + rng.normal(size=(7, 5))
    (row,) = [
        row
        for row in faithfulness(teacher, None, student, seed=3, resamples=200)
        if row.name == "pairwise_pearson"
    ]
    pairs = np.triu_indices(7, 1)
    drawn = []
    for counts in multinomial_counts(7, 200, np.random.default_rng(3)):
        often = (counts[pairs[0]] * counts[pairs[1]]).astype(int)
        first, second = (np.repeat(pair_cosines(side), often) for side in (teacher, student))
        drawn.append(np.corrcoef(first, second)[0, 1])
    np.testing.assert_allclose((row.low, row.high), np.quantile(drawn, [0.025, 0.975]), rtol=1e-6)
