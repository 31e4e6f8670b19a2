"""Accuracy with a few labelled images per class."""

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from tintem_core.errors import ShapeError
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.evaluation.few_shot import few_shot


def clouds(count: int, seed: int = 0, apart: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    rows = apart * np.eye(3, 16)[labels] + rng.normal(0, 0.5, (count, 16)) + 2
    return rows.astype(np.float32), labels


def test_it_agrees_with_scikit_learns_nearest_centroid() -> None:
    """With all images of every class drawn, each draw is the same."""
    (train, labels), (test, answers) = clouds(15), clouds(300, seed=1)
    found = {row.name: row for row in few_shot(train, labels, test, answers, seed=0)}
    assert list(found) == ["few_shot_1", "few_shot_5"]
    centre = unit_rows(train).mean(axis=0)
    centred = (unit_rows(unit_rows(rows) - centre) for rows in (train, test))
    bank, queries = centred
    wanted = NearestCentroid().fit(bank, labels).score(queries, answers)
    assert found["few_shot_5"].value == pytest.approx(wanted)
    assert found["few_shot_5"].n == 300


def test_more_images_say_more_and_no_signal_is_chance() -> None:
    (train, labels), (test, answers) = clouds(600), clouds(300, seed=1)
    one, five, ten = few_shot(train, labels, test, answers, seed=0, chance=1 / 3)
    assert one.value < five.value < ten.value
    assert (one.chance, one.low <= one.value <= one.high) == (1 / 3, True)
    train, labels = clouds(600, apart=0)
    test, answers = clouds(300, seed=1, apart=0)
    for row in few_shot(train, labels, test, answers, seed=0):
        assert abs(row.value - 1 / 3) < 0.05


def test_labels_of_other_images_are_refused() -> None:
    train, labels = clouds(30)
    with pytest.raises(ShapeError):
        few_shot(train, labels[:-1], train, labels, seed=0)
    assert few_shot(train, np.zeros(30, int), train, labels, seed=0) == []
