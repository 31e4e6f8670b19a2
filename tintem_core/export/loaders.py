"""The view of a photo that others cut from it, by the preprocessing files of an export.

The evaluation view crops the central square, at fractions of a pixel, and resamples it in one step.
timm and transformers resample the whole photo to S on its shorter side, then crop whole pixels.

Legend: ``S`` side in pixels.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from tintem_core.views import Pixels


def timm_view(image: Image.Image, size: int) -> Pixels:
    """Return what timm's evaluation transform sees: bicubic, (S, S, 3)."""
    long = int(size * max(image.size) / min(image.size))
    return _cut(image, size, long, Image.Resampling.BICUBIC, lambda spare: round(spare / 2))


def transformers_view(image: Image.Image, size: int) -> Pixels:
    """Return what transformers' BitImageProcessor sees: Lanczos, (S, S, 3)."""
    long = int(size * max(image.size) / min(image.size))
    return _cut(image, size, long, Image.Resampling.LANCZOS, lambda spare: spare // 2)


def _cut(
    image: Image.Image,
    size: int,
    long: int,
    resampling: Image.Resampling,
    offset: Callable[[int], int],
) -> Pixels:
    is_wide = image.width >= image.height
    resized = image.resize((long, size) if is_wide else (size, long), resampling)
    left, top = (offset(side - size) for side in resized.size)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


LOADERS = {"timm": timm_view, "transformers": transformers_view}
