"""Neighbour search and kNN against brute force."""

import numpy as np
import pytest

from tintem_core.errors import DegenerateError, InputError, ShapeError
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.evaluation.neighbours import (
    knn_accuracy,
    knn_predict,
    near_copies,
    nearest,
    neighbour_overlap,
)


def _tables(bank: int = 60, queries: int = 25) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(bank, 7)).astype(np.float32),
        rng.normal(size=(queries, 7)).astype(np.float32),
    )


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize(("asked", "known"), [(1, 1), (7, 3), (2, 60), (25, 13), (512, 8192)])
def test_nearest_is_brute_force_whatever_the_blocks(
    asked: int, known: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tintem_core.evaluation.neighbours._QUERY_ROWS", asked)
    monkeypatch.setattr("tintem_core.evaluation.neighbours._BANK_ROWS", known)
    bank, queries = _tables()
    cosines, rows = nearest(bank, queries, 5)
    full = _cosines(queries, bank)
    np.testing.assert_array_equal(rows, np.argsort(-full, axis=1)[:, :5])
    np.testing.assert_allclose(cosines, np.take_along_axis(full, rows, axis=1), atol=1e-6)
    cosines, others = nearest(bank, bank, 59, exclude_self=True)
    assert not (others == np.arange(60)[:, None]).any()
    np.testing.assert_array_equal(np.sort(others, axis=1)[:, 0], np.arange(60) == 0)
    assert (np.diff(cosines, axis=1) <= 0).all()
    assert np.isfinite(cosines).all()


def test_knn_votes_are_weighted_by_the_exponential_of_the_cosine() -> None:
    bank, queries = _tables()
    labels = np.arange(60) % 4
    scores, predictions = knn_predict(bank, labels, queries, 10, temperature=0.07, classes=6)
    full = _cosines(queries, bank)
    expected = np.zeros((25, 6))
    for query in range(25):
        for row in np.argsort(-full[query])[:10]:
            expected[query, labels[row]] += np.exp(full[query, row] / 0.07)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_array_equal(predictions, expected.argmax(axis=1))


def test_votes_survive_a_temperature_that_would_overflow() -> None:
    bank, queries = _tables()
    scores, _ = knn_predict(bank, np.arange(60) % 4, queries, 10, temperature=1e-4)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)


def test_accuracy_of_every_k_comes_from_one_search_and_skips_what_the_bank_cannot() -> None:
    bank, queries = _tables()
    labels, truth = (bank[:, 0] > 0).astype(int), (queries[:, 0] > 0).astype(int)
    accuracies = knn_accuracy(bank, labels, queries, truth)
    assert list(accuracies) == [10, 20]
    for k, accuracy in accuracies.items():
        assert accuracy == np.mean(knn_predict(bank, labels, queries, k)[1] == truth)
        assert accuracy > 0.7


def test_overlap_is_one_for_a_rotation_and_chance_for_noise() -> None:
    bank, _ = _tables(200)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))[0]
    assert neighbour_overlap(bank, (5 * bank @ rotation).astype(np.float32)).min() >= 0.9
    noise = np.random.default_rng(2).normal(size=(200, 3))
    assert neighbour_overlap(bank, noise).mean() == pytest.approx(10 / 199, abs=0.03)


def test_overlap_of_known_neighbourhoods() -> None:
    angles = np.radians([0, 10, 25, 90, 100])
    first = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    angles[2] = np.radians(80)
    second = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_array_equal(neighbour_overlap(first, second, k=1), [1, 1, 0, 0, 1])


def test_rows_without_direction_and_impossible_k_are_refused() -> None:
    bank, queries = _tables()
    with pytest.raises(InputError, match="between 1 and 60"):
        nearest(bank, queries, 61)
    with pytest.raises(InputError, match="between 1 and 59"):
        nearest(bank, bank, 60, exclude_self=True)
    with pytest.raises(ShapeError, match="7 wide"):
        nearest(bank, queries[:, :3], 1)
    with pytest.raises(ShapeError):
        knn_predict(bank, np.zeros(59, int), queries, 1)
    with pytest.raises(InputError, match=r"0\.\.1"):
        knn_predict(bank, np.arange(60) % 3, queries, 1, classes=2)
    for bad in (0.0, np.nan, np.inf):
        broken = bank.copy()
        broken[3] = bad
        with pytest.raises(DegenerateError, match="row 3"):
            unit_rows(broken)
    half = unit_rows(bank.astype(np.float16))
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, rtol=1e-6)


def test_near_copies_are_counted_against_the_usual_distance() -> None:
    rng = np.random.default_rng(0)
    bank, others = rng.normal(size=(200, 32)), rng.normal(size=(50, 32))
    copies = bank[:7] + 0.05 * rng.normal(size=(7, 32))
    assert near_copies(bank, others) == 0
    assert near_copies(bank, np.concatenate([others, copies])) == 7
    # A model that puts all images into a narrow cone: all cosines are near 1.
    cone = np.full(32, 30.0)
    assert near_copies(bank + cone, np.concatenate([others, copies]) + cone) == 7


def test_votes_have_the_temperature_of_dinov2_unless_another_is_given() -> None:
    bank, queries = _tables()
    labels = np.arange(60) % 4
    found, _ = knn_predict(bank, labels, queries, 10)
    np.testing.assert_array_equal(found, knn_predict(bank, labels, queries, 10, 0.07)[0])
    other, _ = knn_predict(bank, labels, queries, 10, 0.7)
    assert np.abs(found - other).max() > 0.1
