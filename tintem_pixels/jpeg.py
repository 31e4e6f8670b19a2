"""JPEG files unpacked to the pixels that Pillow makes of them, in less time.

simplejpeg holds the same decoder as Pillow (libjpeg-turbo), without Pillow's own copies. Where it
is not installed, Pillow does it all.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

try:
    from simplejpeg import decode_jpeg
except ImportError:
    decode_jpeg = None
if not features.check("libjpeg_turbo"):
    # Other decoders round otherwise.
    decode_jpeg = None

# What may be unpacked at a smaller scale: of tiny files, two scales have one size.
_LEAST_SIDE = 32


def unpacked(data: bytes, opened: Image.Image) -> NDArray[np.uint8] | None:
    """Return the pixels of an upright JPEG, RGB, (H, W, 3); None: Pillow is to decode it.

    Args:
        data: the bytes of the file.
        opened: as Pillow has opened it, and told it a scale; not loaded.
    """
    width, height = opened.size
    if (
        decode_jpeg is None
        or opened.format not in ("JPEG", "MPO")
        or opened.mode not in ("RGB", "L")
        or min(width, height) < _LEAST_SIDE
    ):
        return None
    pixels = np.empty((height, width, 3), np.uint8)
    try:
        # Into memory of this size: a file that says two sizes takes no more.
        found = decode_jpeg(data, min_height=height, min_width=width, buffer=pixels)
    except ValueError:
        # Damaged: Pillow says how, or overlooks it.
        return None
    return found if found.shape == pixels.shape else None
