"""OOD metrics against hand-computed values and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from tintem_core.errors import DegenerateError, InputError, ShapeError
from tintem_core.evaluation.bootstrap import bootstrap_interval
from tintem_core.evaluation.ood import auroc, fpr95, fpr95_openood, nearest_cosine_score


def test_score_is_the_cosine_to_the_kth_nearest() -> None:
    bank = np.array([[1.0, 0], [0, 2.0], [3.0, 3.0]])
    query = np.array([[5.0, 0.0]])
    for k, expected in ((1, 1.0), (2, np.sqrt(0.5)), (3, 0.0)):
        assert nearest_cosine_score(bank, query, k)[0] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(InputError):
        nearest_cosine_score(bank, query, 4)


def test_auroc_counts_ties_as_one_half() -> None:
    assert auroc(np.array([1.0, 2, 3]), np.array([0.0, 2, 2])) == pytest.approx(6 / 9)
    assert auroc(np.array([1.0]), np.array([1.0])) == 0.5


def test_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(1, 1, 203).round(2), rng.normal(0, 1, 97).round(2)
    truth = np.r_[np.ones(203), np.zeros(97)]
    scores = np.r_[ours, theirs]
    assert auroc(ours, theirs) == pytest.approx(roc_auc_score(truth, scores))
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
        for metric in (auroc, fpr95, fpr95_openood):
            with pytest.raises(DegenerateError):
                metric(bad, good)
            with pytest.raises(DegenerateError):
                metric(good, bad)
    with pytest.raises(DegenerateError):
        bootstrap_interval(auroc, np.array([]), good, seed=0)
    with pytest.raises(DegenerateError, match="undefined"):
        bootstrap_interval(lambda v: float("nan"), good, seed=0)
