"""Bases that need no optimiser: the same on every machine, and drawn evenly."""

import numpy as np
import pytest

from tintem_core.mapping.closed_form import principal_rows, random_rows


def _moment(width: int = 12) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(50, width)) * np.arange(1, width + 1)
    return np.asarray(rows.T @ rows / 50)


def test_principal_directions_do_not_depend_on_the_signs_of_a_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = _moment()
    values, vectors = np.linalg.eigh(moment)
    found = principal_rows(moment, 5)
    turned = vectors * np.random.default_rng(1).choice([-1.0, 1.0], 12)
    monkeypatch.setattr(np.linalg, "eigh", lambda _: (values, turned))
    np.testing.assert_array_equal(principal_rows(moment, 5), found)
    assert (found[np.arange(5), np.abs(found).argmax(axis=1)] > 0).all()


def test_random_directions_point_to_either_side_as_often() -> None:
    drawn = np.stack([random_rows(3, 8, seed) for seed in range(400)])
    np.testing.assert_allclose(drawn[0] @ drawn[0].T, np.eye(3), atol=1e-12)
    # Of 400 fair draws, 140 to 260 with a probability of all but 1e-8.
    positive = (drawn[:, np.arange(3), np.arange(3)] > 0).sum(axis=0)
    assert ((positive > 140) & (positive < 260)).all()
