"""Strange images are counted as the formulas say, and chance is told from drift."""

import numpy as np
import pytest

from tintem_core.errors import DegenerateError
from tintem_core.evaluation import drift
from tintem_core.evaluation.drift import Rows, measure_drift, nearest_known, strange_below
from tintem_core.evaluation.ood import Bank, nearest_cosine


def rows(table: np.ndarray) -> Rows:
    return Rows(len(table), table.shape[1], lambda start, stop: table[start:stop])


@pytest.mark.parametrize("piece_rows", [1, 7, 1000])
def test_nearest_in_pieces_is_nearest_in_the_whole(
    monkeypatch: pytest.MonkeyPatch, piece_rows: int
) -> None:
    rng = np.random.default_rng(0)
    reference, images = rng.normal(size=(50, 8)), rng.normal(size=(23, 8))
    monkeypatch.setattr(drift, "_PIECE_BYTES", piece_rows * 4 * 8)
    done: list[int] = []
    cosines, found = nearest_known(rows(reference), rows(images), done.append)
    unit = [t / np.linalg.norm(t, axis=1, keepdims=True) for t in (images, reference)]
    table = unit[0] @ unit[1].T
    assert np.array_equal(found, table.argmax(axis=1))
    np.testing.assert_allclose(cosines, table.max(axis=1), atol=1e-6)
    np.testing.assert_allclose(cosines, nearest_cosine(Bank(reference))(images), atol=1e-6)
    assert sum(done) == 23


def test_no_piece_is_larger_than_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "_PIECE_BYTES", 5 * 4 * 8)
    asked: list[int] = []
    table = np.random.default_rng(1).normal(size=(33, 8))

    def read(start: int, stop: int) -> np.ndarray:
        asked.append(stop - start)
        return table[start:stop]

    nearest_known(Rows(33, 8, read), Rows(33, 8, read))
    assert max(asked) == 5


def test_an_image_is_strange_below_the_known_five_percent() -> None:
    known = np.random.default_rng(2).permutation(np.arange(1, 100)) / 100
    # n = 99: k = floor(0.05 * 100) = 5, so the fifth smallest score.
    assert strange_below(known) == 0.05
    found = measure_drift(known, np.array([0.01, 0.049, 0.05, 0.9]), seed=0, resamples=100)
    assert (found.strange, found.share, found.usual_share) == (2, 0.5, 0.05)


def test_the_chance_is_what_shuffling_known_and_new_images_gives() -> None:
    """Without drift every order of n known and m new scores is as likely: count them."""
    n, m = 39, 6
    rng = np.random.default_rng(3)
    at_least = np.zeros(4)
    draws = 20_000
    for _ in range(draws):
        scores = rng.permutation(n + m)
        strange = np.count_nonzero(scores[n:] < np.sort(scores[:n])[1])
        at_least += strange >= np.arange(4)
    for strange in (1, 2, 3):
        new = np.concatenate([np.full(strange, -1.0), np.full(m - strange, 100.0)])
        found = measure_drift(np.arange(n, dtype=float), new, seed=0, resamples=100)
        assert found.strange == strange
        p = found.chance
        assert abs(p - at_least[strange] / draws) < 4 * np.sqrt(p * (1 - p) / draws)


def test_new_images_like_the_known_ones_are_no_drift_and_others_are() -> None:
    rng = np.random.default_rng(4)
    known = rng.normal(0.9, 0.02, 200)
    same = measure_drift(known, rng.normal(0.9, 0.02, 300), seed=0, resamples=200)
    other = measure_drift(known, rng.normal(0.8, 0.05, 300), seed=0, resamples=200)
    assert same.chance > 0.01
    assert same.ks_p > 0.01
    assert same.auroc_low < 0.5 < same.auroc_high
    assert same.share < 0.12
    assert other.chance < 1e-6
    assert other.ks_p < 1e-6
    assert other.auroc_low > 0.8
    assert other.share_low > 0.5


def test_one_strange_image_alone_proves_nothing() -> None:
    known = np.linspace(0.5, 1, 199)
    assert measure_drift(known, np.array([0.0]), seed=0, resamples=100).chance == pytest.approx(
        0.05
    )
    assert measure_drift(known, np.zeros(5), seed=0, resamples=100).chance < 1e-5


def test_too_few_known_images_cannot_tell_what_is_usual() -> None:
    assert strange_below(np.arange(19.0)) == 0
    with pytest.raises(DegenerateError, match=r"18 known images.*at least 19"):
        strange_below(np.arange(18.0))
    with pytest.raises(DegenerateError, match="no new image"):
        measure_drift(np.arange(19.0), np.array([]), seed=0)
    with pytest.raises(DegenerateError, match="not finite"):
        measure_drift(np.arange(19.0), np.array([np.nan]), seed=0)


def test_a_large_side_is_bootstrapped_from_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "_MOST_RESAMPLED", 50)
    known = np.random.default_rng(5).normal(size=5000)
    found = measure_drift(known, known[:2000] - 0.01, seed=0, resamples=100)
    assert found.auroc_high - found.auroc_low > 0.1
    assert found.auroc_low < found.auroc < found.auroc_high
