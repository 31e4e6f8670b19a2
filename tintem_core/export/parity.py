"""An exported model, checked against the student it came from.

Legend: ``K`` student width, ``N`` images, ``S`` side in pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tintem_core.errors import VerificationError
from tintem_core.export.formats import Embed
from tintem_core.models.embedder import to_float
from tintem_core.models.student import Student
from tintem_core.views import Pixels


@dataclass(frozen=True)
class Verification:
    """How close a runtime comes to torch: smallest cosine, largest absolute difference."""

    images: int
    batch_sizes: tuple[int, ...]
    smallest_cosine: float
    largest_difference: float


def answers(student: Student, pixels: Pixels) -> NDArray[np.float32]:
    """Return the embeddings (N, K) of uint8 images (N, S, S, 3) by PyTorch on the CPU."""
    student = student.cpu().eval()
    with torch.inference_mode():
        found: NDArray[np.float32] = student(
            to_float(torch.from_numpy(pixels), torch.device("cpu"))
        ).numpy()
    return found


def verify(
    embed: Embed,
    wanted: NDArray[np.float32],
    pixels: Pixels,
    *,
    batch_sizes: tuple[int, ...] = (1, 2, 7, 32),
    minimum_cosine: float = 0.9999,
) -> Verification:
    """Compare an exported model with the student on real images, at several batch sizes.

    Args:
        embed: the exported model, opened.
        wanted: the :func:`answers` of the model it came from, shape (N, K).
        pixels: uint8, shape (N, S, S, 3).
        batch_sizes: each image goes through every one of them.
        minimum_cosine: what the worst image must reach.

    Raises:
        VerificationError: if any image's cosine is below ``minimum_cosine``, or not finite.
    """
    smallest, largest = 1.0, 0.0
    for size in batch_sizes:
        found = np.concatenate([embed(pixels[i : i + size]) for i in range(0, len(pixels), size)])
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        cosine = (found.astype(np.float64) * wanted).sum(axis=1) / norms
        worst = float(cosine.min())
        if not worst >= minimum_cosine:
            raise VerificationError(
                f"the exported model differs from the student: on photo {int(cosine.argmin())} at "
                f"batch size {size} the cosine is {worst:.6f}, wanted at least {minimum_cosine}. "
                "Nothing was published."
            )
        smallest = min(smallest, worst)
        largest = max(largest, float(np.abs(found - wanted).max()))
    return Verification(len(pixels), batch_sizes, smallest, largest)
