"""OOD metrics against hand-computed values and scikit-learn."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from tintem_core.errors import DegenerateError, InputError, ShapeError
from tintem_core.evaluation.bootstrap import bootstrap_interval, percentile_interval
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.evaluation.ood import (
    Bank,
    aupr,
    auroc,
    fpr95,
    fpr95_openood,
    k_centre,
    mahalanobis,
    nearest_cosine,
    relative_mahalanobis,
    threshold,
)


def test_score_is_the_cosine_to_the_kth_nearest() -> None:
    bank = np.array([[1.0, 0], [0, 2.0], [3.0, 3.0]])
    query = np.array([[5.0, 0.0]])
    for k, expected in ((1, 1.0), (2, np.sqrt(0.5)), (3, 0.0)):
        assert nearest_cosine(Bank(bank, k=k))(query)[0] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(InputError):
        nearest_cosine(Bank(bank, k=4))(query)


def test_auroc_counts_ties_as_one_half() -> None:
    assert auroc(np.array([1.0, 2, 3]), np.array([0.0, 2, 2])) == pytest.approx(6 / 9)
    assert auroc(np.array([1.0]), np.array([1.0])) == 0.5


def test_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(1, 1, 203).round(2), rng.normal(0, 1, 97).round(2)
    truth = np.r_[np.ones(203), np.zeros(97)]
    scores = np.r_[ours, theirs]
    assert auroc(ours, theirs) == pytest.approx(roc_auc_score(truth, scores))
    assert aupr(ours, theirs) == pytest.approx(average_precision_score(1 - truth, -scores))
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert fpr95(ours, theirs) == pytest.approx(false[np.argmax(true >= 0.95)])
    false, true, _ = roc_curve(1 - truth, -scores, drop_intermediate=False)
    assert fpr95_openood(ours, theirs) == pytest.approx(false[np.argmax(true >= 0.95)])


def test_the_two_definitions_of_fpr95_differ() -> None:
    ours, theirs = np.arange(20.0), np.array([0.5] * 10 + [30.0])
    # 19 of 20 ID images score 1 or more; of 11 OOD images only the outlier does.
    assert fpr95(ours, theirs) == pytest.approx(1 / 11)
    # Rejecting 95 % of 11 OOD images means all of them: every ID image goes too.
    assert fpr95_openood(ours, theirs) == 1


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        low, high = bootstrap_interval(
            lambda v: float(v.mean()), rng.normal(3, 1, 60), seed=seed, resamples=200
        )
        hits += low <= 3 <= high
    assert 0.89 <= hits / 200 <= 0.985


def test_bootstrap_pairs_rows_when_asked_and_repeats_for_a_seed() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=100)

    def gap(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean(a - b))

    assert bootstrap_interval(gap, x, x, seed=0, paired=True) == (0, 0)
    unpaired = bootstrap_interval(gap, x, x, seed=0)
    assert unpaired[0] < 0 < unpaired[1]
    assert bootstrap_interval(gap, x, x, seed=0) == unpaired
    with pytest.raises(ShapeError):
        bootstrap_interval(gap, x, x[:50], seed=0, paired=True)


def test_what_is_undefined_is_refused() -> None:
    good = np.array([1.0, 2])
    for bad in (np.array([]), np.array([np.nan, 1.0])):
        for metric in (auroc, aupr, fpr95, fpr95_openood):
            with pytest.raises(DegenerateError):
                metric(bad, good)
            with pytest.raises(DegenerateError):
                metric(good, bad)
    with pytest.raises(DegenerateError):
        bootstrap_interval(auroc, np.array([]), good, seed=0)
    with pytest.raises(DegenerateError, match="undefined"):
        bootstrap_interval(lambda v: float("nan"), good, seed=0)


def classes(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows around two directions, fewer than twice their width, and queries of both and neither."""
    rng = np.random.default_rng(seed)
    middles = np.eye(24)[:2] * 4
    labels = np.arange(40) % 2
    rows = middles[labels] + rng.normal(0, 1, (40, 24)) * np.linspace(0.1, 1, 24)
    queries = np.concatenate([middles, np.eye(24)[5:7] * 4]) + rng.normal(0, 0.1, (4, 24))
    return rows, labels, queries


def test_mahalanobis_is_scikit_learns_distance_to_the_nearest_class_mean() -> None:
    rows, labels, queries = classes()
    units, asked = unit_rows(rows), unit_rows(queries)
    means = np.stack([units[labels == c].mean(axis=0) for c in (0, 1)])
    fitted = LedoitWolf(assume_centered=True).fit(units - means[labels])
    wanted = np.min([fitted.mahalanobis(asked - mean) for mean in means], axis=0)
    found = mahalanobis(Bank(rows, labels))(queries)
    assert found == pytest.approx(-wanted, rel=1e-4)
    whole = LedoitWolf().fit(units)
    assert mahalanobis(Bank(rows))(queries) == pytest.approx(-whole.mahalanobis(asked), rel=1e-4)
    relative = relative_mahalanobis(Bank(rows, labels))(queries)
    assert relative == pytest.approx(whole.mahalanobis(asked) - wanted, rel=1e-3)
    assert found[:2].min() > found[2:].max()
    # An image without a label counts for no class.
    more = Bank(np.concatenate([rows, queries[2:]]), np.append(labels, [-1, -1]))
    assert mahalanobis(more)(queries) == pytest.approx(found)


def test_what_a_mahalanobis_distance_needs_is_said() -> None:
    rows, _, queries = classes()
    with pytest.raises(InputError, match="no labels: choose another"):
        relative_mahalanobis(Bank(rows))(queries)
    with pytest.raises(DegenerateError, match="are the same"):
        mahalanobis(Bank(np.ones((5, 3))))(np.eye(3))


@pytest.mark.parametrize(("rate", "rejected"), [(0.05, 5), (0.0, 0), (0.999, 99), (0.054, 5)])
def test_a_threshold_rejects_at_most_the_chosen_share(rate: float, rejected: int) -> None:
    scores = np.random.default_rng(0).permutation(100).astype(float)
    assert (scores < threshold(scores, rate)).sum() == rejected
    # Of equal scores all are accepted rather than more rejected than was said.
    assert (np.ones(10) < threshold(np.ones(10), 0.5)).sum() == 0


def test_a_bank_of_centres_covers_better_than_one_drawn_at_random() -> None:
    rng = np.random.default_rng(0)
    # Most images lie together: a random bank is theirs, and the few others are far from it.
    bank = np.concatenate([rng.normal([5, 0, 0, 0], 0.1, (300, 4)), rng.normal(0, 1, (30, 4))])
    chosen = k_centre(bank, 20)
    assert len(set(chosen.tolist())) == 20
    farthest = nearest_cosine(Bank(bank[chosen]))(bank).min()
    drawn = [
        nearest_cosine(Bank(bank[rng.choice(330, 20, replace=False)]))(bank).min()
        for _ in range(20)
    ]
    assert farthest > max(drawn)


def test_of_few_or_equal_rows_each_is_chosen_once() -> None:
    bank = np.ones((5, 3))
    assert sorted(k_centre(bank, 9).tolist()) == [0, 1, 2, 3, 4]


def test_an_interval_covers_the_share_that_it_says() -> None:
    draws = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert percentile_interval(draws) == pytest.approx((25, 975))
    assert percentile_interval(draws, 0.5) == pytest.approx((250, 750))
