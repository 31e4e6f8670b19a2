"""How well a few labelled images per class tell the classes apart, on frozen embeddings.

Legend: N train images, M test images, K width, C classes. NumPy in and out.
"""

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import ShapeError
from tintem_core.evaluation.bootstrap import MetricRow, mean_row
from tintem_core.evaluation.cosine import unit_rows

Table = NDArray[np.floating]
Labels = NDArray[np.integer]
SHOTS = (1, 5, 10)
_DRAWS = 50


def few_shot(
    train_NK: Table,
    labels_N: Labels,
    test_MK: Table,
    test_labels_M: Labels,
    *,
    seed: int,
    resamples: int = 1000,
    chance: float | None = None,
) -> list[MetricRow]:
    """`few_shot_1`, `few_shot_5`, `few_shot_10`: accuracy with so many labelled images per class.

    The nearest class mean of centred unit rows (Wang et al., "SimpleShot", arXiv 1911.04623, the
    variant CL2N; the centre is the mean of all train rows, which needs no labels), averaged over
    50 draws of the labelled images. A number of images that not every class has is left out. The
    intervals are over the test images.

    Args:
        train_NK: embeddings to draw from, shape (N, K).
        labels_N: their classes, shape (N,).
        test_MK: embeddings to classify, shape (M, K).
        test_labels_M: their classes, shape (M,); one that no train image has counts as missed.
        seed: of the draws and the bootstrap.
        resamples: bootstrap draws.
        chance: what the rows say of an answer that knows nothing.

    Raises:
        ShapeError: labels do not match.
        DegenerateError: a zero or non-finite row.
    """
    for rows, labels in ((train_NK, labels_N), (test_MK, test_labels_M)):
        if labels.shape != (len(rows),):
            raise ShapeError(f"{len(rows)} images came with labels of shape {labels.shape}.")
    classes, counts = np.unique(labels_N, return_counts=True)
    train_NK, test_MK = unit_rows(train_NK), unit_rows(test_MK)
    centre = train_NK.mean(axis=0, keepdims=True)
    train_NK, test_MK = _directions(train_NK - centre), _directions(test_MK - centre)
    members = [np.flatnonzero(labels_N == label) for label in classes]
    found = []
    for shots in SHOTS:
        if shots > counts.min() or len(classes) < 2:
            continue
        rng = np.random.default_rng([seed, shots])
        right_M = np.zeros(len(test_MK))
        for _ in range(_DRAWS):
            means_CK = np.stack(
                [train_NK[rng.choice(own, shots, replace=False)].mean(axis=0) for own in members]
            )
            # Squared distances, but for the part that all classes share.
            apart_MC = (means_CK**2).sum(axis=1) - 2 * test_MK @ means_CK.T
            right_M += classes[apart_MC.argmin(axis=1)] == test_labels_M
        row = mean_row(
            f"few_shot_{shots}", right_M / _DRAWS, seed=seed, resamples=resamples, chance=chance
        )
        found.append(row)
    return found


def _directions(rows: Table) -> Table:
    """Unit rows; one that lies in the centre itself stays there."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1), rows.dtype)
