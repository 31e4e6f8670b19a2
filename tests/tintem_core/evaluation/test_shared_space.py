"""A student in its teacher's index, against plain NumPy, and what few images leave out."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError, ShapeError
from tintem_core.evaluation.neighbours import knn_predict
from tintem_core.evaluation.shared_space import shared_knn, shared_space

Floats = NDArray[np.float32]


def _three(images: int, noise: float = 0.6, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Teacher 12 wide, its mapped form 6 wide, and a student near that."""
    rng = np.random.default_rng(seed)
    teacher = rng.normal(size=(images, 12))
    mapped = teacher @ rng.normal(size=(12, 6))
    student = mapped + noise * rng.normal(size=mapped.shape) * mapped.std()
    return teacher.astype(np.float32), mapped.astype(np.float32), student.astype(np.float32)


def _cosines(first: Floats, second: Floats) -> NDArray[np.float64]:
    a, b = (t.astype(np.float64) for t in (first, second))
    a, b = (t / np.linalg.norm(t, axis=1, keepdims=True) for t in (a, b))
    return np.asarray(a @ b.T)


def test_values_agree_with_the_definitions() -> None:
    teacher, index, queries = _three(80)
    rows = {r.name: r for r in shared_space(teacher, index, queries, seed=0, resamples=200)}
    found, wanted = _cosines(queries, index), _cosines(teacher, teacher)
    ranks = (found > np.diag(found)[:, None]).sum(axis=1)
    np.fill_diagonal(found, -2)
    np.fill_diagonal(wanted, -2)
    shares = [
        len({*np.argsort(-f)[:10]} & {*np.argsort(-w)[:10]}) / 10
        for f, w in zip(found, wanted, strict=True)
    ]
    expected = {
        "same_photo_at_1": ((ranks < 1).mean(), 1 / 80),
        "same_photo_at_10": ((ranks < 10).mean(), 10 / 80),
        "shared_overlap_10": (np.mean(shares), 10 / 79),
    }
    assert list(rows) == list(expected)
    for name, (value, chance) in expected.items():
        assert rows[name].value == pytest.approx(value), name
        assert rows[name].chance == pytest.approx(chance), name
        assert rows[name].low < value < rows[name].high
        assert rows[name].n == 80
    assert 0.1 < rows["same_photo_at_1"].value < 0.9


def test_a_student_that_is_the_mapped_teacher_finds_every_photo() -> None:
    teacher, index, _ = _three(40)
    rows = shared_space(teacher, index, 3 * index, seed=0, resamples=20)
    assert [r.value for r in rows[:2]] == [1, 1]
    same = shared_space(teacher, teacher, teacher, seed=0, resamples=20)
    assert [r.value for r in same] == [1, 1, 1]


def test_a_student_that_knows_nothing_finds_as_much_as_chance() -> None:
    teacher, index, _ = _three(600)
    _, _, other = _three(600, seed=5)
    for row in shared_space(teacher, index, other, seed=0, resamples=200):
        assert row.chance is not None
        assert row.value == pytest.approx(row.chance, abs=0.01)


def test_collapsed_embeddings_are_worth_chance() -> None:
    teacher, index, _ = _three(30)
    same = np.ones_like(index)
    for rows in (
        shared_space(teacher, index, same, seed=0, resamples=20),
        shared_space(teacher, same, index, seed=0, resamples=20),
    ):
        for row in rows[:2]:
            assert row.value == pytest.approx(row.chance)
        assert np.isfinite([rows[2].value, rows[2].low, rows[2].high]).all()


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (1, []),
        (2, ["same_photo_at_1"]),
        (3, ["same_photo_at_1", "shared_overlap_1"]),
        (13, ["same_photo_at_1", "shared_overlap_6"]),
        (20, ["same_photo_at_1", "same_photo_at_10", "shared_overlap_9"]),
        (21, ["same_photo_at_1", "same_photo_at_10", "shared_overlap_10"]),
    ],
)
def test_what_chance_reaches_is_left_out_or_asked_of_fewer(images: int, names: list[str]) -> None:
    rows = shared_space(*_three(images), seed=0, resamples=20)
    assert [row.name for row in rows] == names
    assert all(row.chance is not None and row.chance <= 0.5 for row in rows)


def test_neighbours_that_vote_across_spaces() -> None:
    rng = np.random.default_rng(0)
    labels, wanted = rng.integers(0, 3, 60), rng.integers(0, 3, 30)
    centres = rng.normal(size=(3, 6))
    index = (centres[labels] + 0.7 * rng.normal(size=(60, 6))).astype(np.float32)
    queries = (centres[wanted] + 0.7 * rng.normal(size=(30, 6))).astype(np.float32)
    row = shared_knn(index, labels, queries, wanted, 5, seed=0, resamples=100)
    assert (row.name, row.n) == ("shared_knn", 30)
    cosines = _cosines(queries, index)
    votes = np.zeros((30, 3))
    for query, line in enumerate(cosines):
        for near in np.argsort(-line)[:5]:
            votes[query, labels[near]] += np.exp(line[near] / 0.07)
    assert row.value == pytest.approx((votes.argmax(axis=1) == wanted).mean())
    beyond = shared_knn(index, labels, queries, wanted, 1000, seed=0, resamples=10)
    _, everyone = knn_predict(index, labels, queries, 60)
    assert beyond.value == pytest.approx((everyone == wanted).mean())


def test_other_images_or_widths_are_refused() -> None:
    teacher, index, queries = _three(20)
    for wrong in (
        (teacher[:19], index, queries),
        (teacher, index[:19], queries),
        (teacher, index, queries[:, :5]),
    ):
        with pytest.raises(ShapeError, match="same images"):
            shared_space(*wrong, seed=0, resamples=5)
    with pytest.raises(ShapeError, match="3 queries came with 2 labels"):
        shared_knn(index, np.zeros(20, int), queries[:3], np.zeros(2, int), 1, seed=0)
    broken = queries.copy()
    broken[2] = 0
    with pytest.raises(DegenerateError, match="row 2"):
        shared_space(teacher, index, broken, seed=0, resamples=5)
