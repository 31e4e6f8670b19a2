"""Masks against what a linear layer on patch tokens tells."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from tintem_core.errors import NotApplicableError, ShapeError
from tintem_core.evaluation.segmentation import (
    UNTOLD,
    confusion,
    grid_side,
    mean_iou,
    pixel_classes,
    token_classes,
)


def test_iou_is_that_of_scikit_learn_over_the_pixels_of_all_images() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.integers(0, 4, (6, 20, 20))
    found = np.where(rng.random(wanted.shape) < 0.6, wanted, rng.integers(0, 4, wanted.shape))
    each = np.stack([confusion(w, f, 4) for w, f in zip(wanted, found, strict=True)])
    assert (each.sum(axis=0) == confusion_matrix(wanted.ravel(), found.ravel())).all()
    assert mean_iou(each) == pytest.approx(
        jaccard_score(wanted.ravel(), found.ravel(), average="macro")
    )


def test_pixels_that_nobody_has_labelled_count_nowhere() -> None:
    wanted, found = np.zeros((4, 4), np.int64), np.zeros((4, 4), np.int64)
    wanted[:2], found[:2] = UNTOLD, 1
    assert mean_iou(confusion(wanted, found, 3)[None]) == 1.0


def test_a_token_has_the_class_that_most_pixels_below_it_have() -> None:
    mask = np.full((8, 8), UNTOLD, np.int64)
    mask[:4, :4] = 1
    mask[0, :3] = 0
    mask[:4, 4:] = 2
    mask[4:, :4].flat[:3] = 0
    # Three labelled pixels tell more than thirteen that are not.
    assert token_classes(mask, 2, 3).tolist() == [1, 2, 0, UNTOLD]
    with pytest.raises(ShapeError, match="no grid of 3 x 3"):
        token_classes(mask, 3, 3)


def test_logits_are_interpolated_before_a_class_is_chosen() -> None:
    logits = np.zeros((4, 2), np.float32)
    # The left column is of class 0, the right one of class 1, less surely.
    logits[[0, 2], 0], logits[[1, 3], 1] = 3.0, 1.0
    found = pixel_classes(logits, 8)
    assert found.shape == (8, 8)
    assert (found[:, :4] == 0).all()
    assert (found[:, -1] == 1).all()
    assert 0 < (found == 1).mean() < 0.5


def test_tokens_that_form_no_square_have_no_place() -> None:
    assert grid_side(196) == 14
    with pytest.raises(NotApplicableError, match="12 patch tokens form no square"):
        grid_side(12)
