"""What a student sees of a photo: the evaluation view.

Legend: ``S`` side of a square view in pixels.
"""

from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tintem_pixels.decode import decode


def centre_crop(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return the central square of an image, resampled: (S, S, 3)."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def load_square(
    photo: str | PathLike[str] | bytes, size: int, bits: int | None = None
) -> NDArray[np.uint8]:
    """Return what an exported student takes as `image`: uint8, RGB, (S, S, 3).

    Args:
        photo: a file, or its bytes.
        size: S, the student's input size; its card says it.
        bits: how many bits are in use in grey values that are stored in more than 8; None: as the
            file says.

    Raises:
        PixelError: if it is no complete image that Pillow can read.
    """
    if not isinstance(photo, bytes):
        photo = Path(photo).read_bytes()
    return centre_crop(decode(photo, bits).image, size)


def load_pixels(
    photo: str | PathLike[str] | bytes, size: int, bits: int | None = None
) -> NDArray[np.float32]:
    """Return what an exported student takes as `pixels`: float32, RGB, 0..1, (3, S, S).

    Args:
        photo, size, bits: see :func:`load_square`.

    Raises:
        PixelError: if it is no complete image that Pillow can read.
    """
    pixels = load_square(photo, size, bits)
    return pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
