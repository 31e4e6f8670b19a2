"""Linear segmentation: which class each pixel belongs to, told from frozen patch tokens.

Legend: ``N`` images, ``T`` tokens of an image (a square grid), ``C`` classes, ``S`` side in pixels.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from tintem_core.errors import NotApplicableError, ShapeError

UNTOLD = -1
"""The class of pixels that nobody has labelled: they count nowhere."""


def grid_side(tokens: int) -> int:
    """Return the side of the square grid that tokens form.

    Raises:
        NotApplicableError: if they form none.
    """
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise NotApplicableError(f"its {tokens} patch tokens form no square")
    return side


def token_classes(mask_SS: NDArray[np.int64], side: int, classes: int) -> NDArray[np.int64]:
    """Return the most frequent class below each token of a grid, row by row: (side * side,).

    Args:
        mask_SS: classes 0..C-1 or UNTOLD; S is a multiple of ``side``.
        side: of the grid.
        classes: C.

    Raises:
        ShapeError: if the tokens do not divide the mask.
    """
    if mask_SS.shape[0] % side or mask_SS.shape[0] != mask_SS.shape[1]:
        raise ShapeError(f"A mask {mask_SS.shape} has no grid of {side} x {side} tokens.")
    step = mask_SS.shape[0] // side
    below = mask_SS.reshape(side, step, side, step).swapaxes(1, 2).reshape(side * side, -1)
    # One place more for what nobody has labelled, which counts last.
    counts = np.stack([np.bincount(row + 1, minlength=classes + 1) for row in below])
    told = counts[:, 1:]
    return np.where(told.sum(axis=1) > 0, told.argmax(axis=1), UNTOLD)


def pixel_classes(logits_TC: NDArray[np.float32], size: int) -> NDArray[np.int64]:
    """Return the class of each pixel: logits interpolated bilinearly, then the largest: (S, S)."""
    side = grid_side(len(logits_TC))
    grid = torch.from_numpy(logits_TC.T.reshape(1, -1, side, side))
    fine = torch.nn.functional.interpolate(grid, size=(size, size), mode="bilinear")
    found: NDArray[np.int64] = fine[0].argmax(dim=0).numpy()
    return found


def confusion(
    wanted: NDArray[np.int64], found: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Count pixels by wanted and found class: (C, C). UNTOLD ones count nowhere."""
    told = wanted != UNTOLD
    pairs = wanted[told] * classes + found[told]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def mean_iou(confusions_NCC: NDArray[np.int64]) -> float:
    """Return the mean over classes of intersection over union, of all images' pixels together.

    Classes that neither the masks nor the answers have are left out. Source: the PASCAL VOC
    segmentation measure (Everingham et al., IJCV 2015, section 4.1.2).
    """
    total = confusions_NCC.sum(axis=0)
    union = total.sum(axis=0) + total.sum(axis=1) - np.diag(total)
    return float(np.mean(np.diag(total)[union > 0] / union[union > 0]))
