"""Faithfulness: exact values, intervals that mean what they say, and speed."""

import time

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError, ShapeError
from tintem_core.evaluation.bootstrap import MetricRow
from tintem_core.evaluation.faithfulness import (
    faithfulness,
    pearson_over_sets,
    prediction_agreement,
    score_rank_correlation,
)

Floats = NDArray[np.float32]
NAMES = [
    "cosine_to_mapped",
    "cosine_to_mapped_p5",
    "r2_to_mapped",
    "pairwise_pearson",
    "pairwise_spearman",
    "cka_linear",
    "neighbour_overlap_10",
]


def _pair(images: int, seed: int = 0, noise: float = 1.0) -> tuple[Floats, Floats]:
    """Teacher 20 wide and a student 6 wide that sees it through a fixed noisy projection."""
    mixing = np.random.default_rng(99).normal(size=(5, 26))
    rng = np.random.default_rng(seed)
    both = rng.normal(size=(images, 5)) @ mixing + noise * rng.normal(size=(images, 26)) + 0.5
    return both[:, :20].astype(np.float32), both[:, 20:].astype(np.float32)


def _rows(teacher: Floats, student: Floats, **settings: int) -> dict[str, MetricRow]:
    arguments = {"seed": 0, "resamples": 200} | settings
    rows = faithfulness(teacher, student + 0.1, student, **arguments)
    return {row.name: row for row in rows}


def _off_diagonal(rows: Floats) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(rows), 1)]


def test_values_agree_with_the_definitions() -> None:
    teacher, student = _pair(80)
    rows = _rows(teacher, student)
    assert list(rows) == NAMES
    first, second = _off_diagonal(teacher), _off_diagonal(student)
    assert rows["pairwise_pearson"].value == pytest.approx(np.corrcoef(first, second)[0, 1])
    spearman = scipy.stats.spearmanr(first, second).statistic
    assert rows["pairwise_spearman"].value == pytest.approx(spearman, abs=1e-6)
    x, y = (t - t.mean(0, dtype=np.float64) for t in (teacher, student))
    cka = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert rows["cka_linear"].value == pytest.approx(cka)
    mapped = student + 0.1
    cosines = (mapped * student).sum(1) / np.linalg.norm(mapped, axis=1)
    cosines = cosines / np.linalg.norm(student, axis=1)
    assert rows["cosine_to_mapped"].value == pytest.approx(cosines.mean(), abs=1e-6)
    p5 = np.quantile(cosines, 0.05)
    assert rows["cosine_to_mapped_p5"].value == pytest.approx(p5, abs=1e-5)
    for row in rows.values():
        assert row.low <= row.value <= row.high
        assert row.n == 80


def test_a_perfect_student_scores_one_everywhere() -> None:
    teacher, _ = _pair(50)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    student = (2 * teacher @ rotation).astype(np.float32)
    for row in faithfulness(teacher, student, student, seed=0, resamples=50):
        assert row.value == pytest.approx(1, abs=1e-6)
        assert row.low == pytest.approx(1, abs=1e-5)


def test_without_a_mapping_the_cosines_to_it_are_left_out() -> None:
    teacher, student = _pair(30)
    names = [r.name for r in faithfulness(teacher, None, student, seed=0, resamples=10)]
    assert names == NAMES[3:]


def _slow_draws(teacher: Floats, student: Floats, resamples: int) -> dict[str, list[float]]:
    """Bootstrap by resampling images outright and dropping pairs of an image with its copy."""
    rng = np.random.default_rng(5)
    draws: dict[str, list[float]] = {"pairwise_pearson": [], "pairwise_spearman": []}
    for _ in range(resamples):
        picked = rng.integers(0, len(teacher), len(teacher))
        i, j = np.triu_indices(len(picked), 1)
        apart = picked[i] != picked[j]
        first = _off_diagonal(teacher[picked])[apart]
        second = _off_diagonal(student[picked])[apart]
        draws["pairwise_pearson"].append(np.corrcoef(first, second)[0, 1])
        draws["pairwise_spearman"].append(scipy.stats.spearmanr(first, second).statistic)
    return draws


def test_fast_bootstrap_agrees_with_resampling_outright() -> None:
    teacher, student = _pair(60)
    rows = _rows(teacher, student, resamples=2000)
    for name, draws in _slow_draws(teacher, student, 500).items():
        low, high = np.quantile(draws, [0.025, 0.975])
        width = high - low
        assert rows[name].low == pytest.approx(low, abs=0.15 * width)
        assert rows[name].high == pytest.approx(high, abs=0.15 * width)


def test_intervals_cover_the_value_of_the_whole_population() -> None:
    population = _rows(*_pair(2000, seed=1000), resamples=2)
    names = ["pairwise_pearson", "pairwise_spearman", "cka_linear", "cosine_to_mapped"]
    hits = dict.fromkeys(names, 0)
    for seed in range(60):
        rows = _rows(*_pair(150, seed=seed), seed=seed)
        for name in names:
            hits[name] += rows[name].low <= population[name].value <= rows[name].high
    for name in names:
        assert hits[name] >= 50, (name, hits)


def test_duplicates_in_a_resample_do_not_fake_similarity() -> None:
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(size=(100, 30)), rng.normal(size=(100, 10))
    rows = _rows(teacher.astype(np.float32), student.astype(np.float32))
    for name in ("pairwise_pearson", "pairwise_spearman"):
        assert abs(rows[name].low + rows[name].high) < 0.15
    # Counting an image's meeting with itself once per pair of copies lifts this to about 0.5.
    cka = rows["cka_linear"]
    assert (cka.low + cka.high) / 2 == pytest.approx(cka.value, abs=0.03)


def test_large_sets_are_subsampled_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tintem_core.evaluation.pairs.PAIR_IMAGES", 200)
    teacher, student = _pair(250)
    rows = _rows(teacher, student, resamples=5)
    assert [rows[name].n for name in NAMES] == [250, 250, 250, 200, 200, 200, 200]
    assert rows == _rows(teacher, student, resamples=5)
    other = _rows(teacher, student, resamples=5, seed=1)
    assert other["pairwise_pearson"].value != rows["pairwise_pearson"].value
    assert other["cosine_to_mapped"].value == rows["cosine_to_mapped"].value


@pytest.mark.parametrize(("images", "k"), [(4, 1), (5, 2), (13, 6), (20, 9), (21, 10)])
def test_a_handful_of_images_still_gives_numbers_that_chance_does_not(images: int, k: int) -> None:
    teacher, student = _pair(images)
    rows = faithfulness(teacher, student, student, seed=0, resamples=300)
    assert np.isfinite([[r.value, r.low, r.high] for r in rows]).all()
    assert rows[-1].name == f"neighbour_overlap_{k}"
    assert rows[-1].chance == pytest.approx(k / (images - 1))
    assert rows[-1].chance <= 0.5


def test_collapsed_or_mismatched_embeddings_are_refused() -> None:
    teacher, student = _pair(30)
    with pytest.raises(DegenerateError, match="collapsed"):
        faithfulness(teacher, None, np.ones_like(student), seed=0, resamples=5)
    with pytest.raises(DegenerateError, match="too few"):
        faithfulness(teacher[:3], None, student[:3], seed=0, resamples=5)
    with pytest.raises(ShapeError, match="30 images, the student 29"):
        faithfulness(teacher, None, student[:29], seed=0, resamples=5)
    with pytest.raises(ShapeError):
        faithfulness(teacher, student[:, :3], student, seed=0, resamples=5)
    broken = student.copy()
    broken[7] = 0
    with pytest.raises(DegenerateError, match="row 7"):
        faithfulness(teacher, None, broken, seed=0, resamples=5)


def test_agreement_and_rank_correlation() -> None:
    row = prediction_agreement(np.array([0, 1, 2, 1]), np.array([0, 1, 1, 1]), seed=0)
    assert (row.name, row.value, row.n) == ("knn_agreement", 0.75, 4)
    assert row.low < 0.75 <= row.high
    rng = np.random.default_rng(0)
    first = rng.normal(size=200)
    second = np.exp(first) + 0.1 * rng.normal(size=200)
    row = score_rank_correlation(first, second, seed=0, resamples=200)
    assert row.value == pytest.approx(scipy.stats.spearmanr(first, second).statistic)
    assert row.low < row.value < row.high
    with pytest.raises(DegenerateError):
        score_rank_correlation(first, np.ones(200), seed=0, resamples=5)


def test_neighbours_come_with_what_chance_would_find() -> None:
    teacher, student = _pair(40)
    rows = _rows(teacher, student)
    assert rows["neighbour_overlap_10"].chance == pytest.approx(10 / 39)
    assert rows["pairwise_pearson"].chance is None


def test_pearson_over_sets_sees_that_they_lie_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, student = _pair(60, noise=3)
    apart = np.repeat(np.array([0, 8], np.float32), 30)[:, None]
    row = pearson_over_sets(teacher + apart, student + apart, seed=0, resamples=200)
    first, second = _off_diagonal(teacher + apart), _off_diagonal(student + apart)
    assert row.value == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert row.low < row.value < row.high
    within = [_rows(teacher[s], student[s]) for s in (slice(30), slice(30, 60))]
    assert all(row.value > rows["pairwise_pearson"].value + 0.1 for rows in within)
    monkeypatch.setattr("tintem_core.evaluation.pairs.PAIR_IMAGES", 20)
    assert pearson_over_sets(teacher, student, seed=0, resamples=10).n == 20
    with pytest.raises(ShapeError, match="60 teacher rows"):
        pearson_over_sets(teacher, student[:9], seed=0)
    with pytest.raises(DegenerateError, match="collapsed"):
        pearson_over_sets(teacher, np.ones_like(student), seed=0)
    with pytest.raises(DegenerateError, match="too few"):
        pearson_over_sets(teacher[:1], student[:1], seed=0)


def test_a_thousand_images_and_resamples_take_seconds() -> None:
    teacher, student = _pair(1000)
    began = time.perf_counter()
    _rows(teacher, student, resamples=1000)
    # About 1 s on one idle core; re-ranking and re-correlating pairs outright takes minutes.
    assert time.perf_counter() - began < 15
