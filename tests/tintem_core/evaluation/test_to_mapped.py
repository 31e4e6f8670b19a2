"""Nearness to the mapped teacher, against plain NumPy, and what is refused."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError, ShapeError
from tintem_core.evaluation.bootstrap import MetricRow, mean_row, multinomial_counts
from tintem_core.evaluation.to_mapped import constant_rows, mean_direction, r2, to_mapped_rows

Floats = NDArray[np.float32]


def _cone(images: int, seed: int = 0, noise: float = 0.5) -> tuple[Floats, Floats]:
    """Targets in a narrow cone, as embeddings of one domain are, and answers near them."""
    rng = np.random.default_rng(seed)
    targets = 3 + rng.normal(size=(images, 8)) * np.linspace(0.2, 2, 8)
    answers = targets + noise * rng.normal(size=(images, 8))
    lengths = rng.uniform(0.5, 4, size=(images, 1))
    return targets.astype(np.float32), (lengths * answers).astype(np.float32)


def _units(rows: Floats) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))


def _named(rows: list[MetricRow]) -> dict[str, MetricRow]:
    return {row.name: row for row in rows}


def test_values_agree_with_the_definitions() -> None:
    mapped, student = _cone(120)
    train, _ = _cone(300, seed=1)
    centre = mean_direction(train)
    np.testing.assert_allclose(centre, _units(train).mean(0), atol=1e-7)
    rows = _named(to_mapped_rows(mapped, student, centre, seed=0, resamples=200))
    z, s = _units(mapped), _units(student)
    cosines = (z * s).sum(1)
    wanted_r2 = 1 - ((s - z) ** 2).sum() / ((z - z.mean(0)) ** 2).sum()
    a, b = s - centre, z - centre
    centred = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    wanted = {
        "cosine_to_mapped": cosines.mean(),
        "cosine_to_mapped_p5": np.quantile(cosines, 0.05),
        "r2_to_mapped": wanted_r2,
        "centred_cosine_to_mapped": centred.mean(),
    }
    assert list(rows) == list(wanted)
    for name, value in wanted.items():
        assert rows[name].value == pytest.approx(value, abs=1e-6), name
        assert rows[name].low < value < rows[name].high
        assert rows[name].n == 120
    assert r2(mapped, student) == pytest.approx(wanted_r2, abs=1e-6)


def test_a_perfect_student_explains_everything_whatever_its_lengths() -> None:
    mapped, _ = _cone(20)
    rows = to_mapped_rows(mapped, 7 * mapped, mean_direction(mapped), seed=0, resamples=50)
    assert [row.value for row in rows] == pytest.approx([1, 1, 1, 1], abs=1e-6)
    assert [row.low for row in rows] == pytest.approx([1, 1, 1, 1], abs=1e-5)


def test_a_constant_answer_has_a_high_cosine_and_explains_nothing() -> None:
    mapped, _ = _cone(150)
    centre = mean_direction(mapped)
    rows = _named(constant_rows(mapped, centre, seed=0, resamples=100))
    assert list(rows) == ["cosine_to_mapped", "r2_to_mapped"]
    unit = centre / np.linalg.norm(centre)
    cosine = (_units(mapped) @ unit).mean()
    assert rows["cosine_to_mapped"].value == pytest.approx(cosine, abs=1e-6)
    assert cosine > 0.8
    assert rows["r2_to_mapped"].value == pytest.approx(0, abs=1e-6)
    elsewhere = _named(constant_rows(mapped, -centre, seed=0, resamples=100))
    z = _units(mapped)
    wanted = 1 - ((z + centre) ** 2).sum() / ((z - z.mean(0)) ** 2).sum()
    assert elsewhere["r2_to_mapped"].value == pytest.approx(wanted, rel=1e-5)


def test_the_interval_of_r2_is_that_of_resampling_outright() -> None:
    mapped, student = _cone(60)
    row = _named(to_mapped_rows(mapped, student, seed=0, resamples=4000))["r2_to_mapped"]
    rng, draws = np.random.default_rng(7), []
    for _ in range(2000):
        picked = rng.integers(0, 60, 60)
        # Their own mean fits them better than that of the 60 fits the 60.
        draws.append(1 - (1 - r2(mapped[picked], student[picked])) * 59 / 60)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert row.low == pytest.approx(low, abs=0.15 * (high - low))
    assert row.high == pytest.approx(high, abs=0.15 * (high - low))


def test_the_interval_of_a_constant_answers_r2_holds_it_in_the_midst() -> None:
    mapped, _ = _cone(100)
    centre = mean_direction(mapped)
    row = _named(constant_rows(mapped, centre, seed=0, resamples=4000))["r2_to_mapped"]
    middle, width = (row.low + row.high) / 2, row.high - row.low
    assert abs(row.value - middle) < width / 4


def test_many_images_are_resampled_in_blocks_of_the_same_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mapped, student = _cone(50)
    whole = to_mapped_rows(mapped, student, seed=3, resamples=30)
    monkeypatch.setattr("tintem_core.evaluation.to_mapped._BLOCK_COUNTS", 50 * 10)
    assert to_mapped_rows(mapped, student, seed=3, resamples=30) == whole


@pytest.mark.parametrize("images", [4, 5])
def test_a_handful_of_images_still_gives_finite_numbers(images: int) -> None:
    mapped, student = _cone(images)
    centre = mean_direction(mapped)
    rows = to_mapped_rows(mapped, student, centre, seed=0, resamples=500)
    rows += constant_rows(mapped, centre, seed=0, resamples=500)
    assert np.isfinite([[r.value, r.low, r.high] for r in rows]).all()


def test_a_student_at_the_centre_has_no_direction_from_it_and_scores_zero() -> None:
    mapped, _ = _cone(10)
    centre = np.zeros(8)
    centre[0] = 1
    student = np.tile(centre.astype(np.float32), (10, 1))
    rows = _named(to_mapped_rows(mapped, student, centre, seed=0, resamples=20))
    assert rows["centred_cosine_to_mapped"].value == 0


def test_what_has_no_number_is_refused_by_name() -> None:
    mapped, student = _cone(10)
    same = np.ones_like(mapped) * np.arange(1, 11, dtype=np.float32)[:, None]
    with pytest.raises(DegenerateError, match="no variance to explain"):
        to_mapped_rows(same, student, seed=0, resamples=5)
    with pytest.raises(DegenerateError, match="no variance to explain"):
        r2(same, student)
    with pytest.raises(DegenerateError, match="1 images are too few"):
        to_mapped_rows(mapped[:1], student[:1], seed=0, resamples=5)
    with pytest.raises(DegenerateError, match="1 images are too few"):
        constant_rows(mapped[:1], mean_direction(mapped), seed=0, resamples=5)
    with pytest.raises(ShapeError, match="differ in shape"):
        r2(mapped, student[:, :3])
    with pytest.raises(ShapeError, match="centre"):
        to_mapped_rows(mapped, student, np.ones(3), seed=0, resamples=5)
    broken = student.copy()
    broken[4] = np.nan
    with pytest.raises(DegenerateError, match="row 4"):
        to_mapped_rows(mapped, broken, seed=0, resamples=5)


def test_means_and_draws() -> None:
    row = mean_row("right", np.array([True, False, True, True]), seed=0, chance=0.5)
    assert (row.name, row.value, row.n, row.chance) == ("right", 0.75, 4, 0.5)
    with pytest.raises(DegenerateError):
        mean_row("right", np.array([]), seed=0)
    counts = multinomial_counts(4, 300, np.random.default_rng(0))
    assert (counts.sum(axis=1) == 4).all()
    assert ((counts > 0).sum(axis=1) >= 3).all()
    with pytest.raises(DegenerateError, match="3 images are too few"):
        multinomial_counts(3, 1, np.random.default_rng(0))


def test_every_draw_of_r2_is_measured_against_its_own_mean() -> None:
    """The mean of all images is never better than that of those drawn, whose fit is made good."""
    mapped = np.random.default_rng(0).normal(size=(12, 6))
    _, row = constant_rows(mapped, mean_direction(mapped), seed=0, resamples=300)
    assert row.value == pytest.approx(0, abs=1e-6)
    assert row.low < -0.05
    assert 0 < row.high < 1 / 12
