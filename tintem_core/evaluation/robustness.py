"""Errors under common corruptions.

Legend: ``N`` images, ``C`` corruptions. NumPy in and out.
"""

import numpy as np
from numpy.typing import NDArray

from tintem_core.errors import DegenerateError


def mean_corruption_error(
    wrong_NC: NDArray[np.floating], reference_NC: NDArray[np.floating]
) -> float:
    """Errors relative to a reference's, as a mean over corruptions: mCE.

    Hendrycks & Dietterich (ICLR 2019), section 4.1; their reference is AlexNet, ours the teacher.

    Args:
        wrong_NC: how many errors were made on an image under a corruption, over all severities.
        reference_NC: how many the reference makes.

    Raises:
        DegenerateError: if the reference makes none under some corruption.
    """
    of_reference = reference_NC.sum(axis=0)
    if not of_reference.all():
        raise DegenerateError("There is no error under some corruption to be relative to.")
    return float(np.mean(wrong_NC.sum(axis=0) / of_reference))
