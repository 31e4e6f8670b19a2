"""Images that are drawn instead of photographed: the dead leaves model.

Discs, squares and polygons cover each other; their sizes follow a power law, as those of objects in
photos do (Lee, Mumford & Huang, "Occlusion models for natural images", IJCV 2001). Networks learn
from such images nearly what they learn from photos (Baradad et al., arXiv 2106.05963).

An image is a function of (seed, number). Its key is its content, like that of any image.
"""

import io
import math
import re

import numpy as np
import PIL
import polars as pl
from PIL import Image, ImageDraw

from storage.errors import SourceError
from storage.images.source import ImageReader, SourceConfig

SCHEME = "synthetic:"
# Counts up when an image of the same seed and number comes out otherwise.
_VERSION = 1
_SIDE = 256
# Radii, as shares of the side: density proportional to radius to the power of -3.
_SMALLEST, _LARGEST = 0.02, 0.5


def synthetic_source(images: int, seed: int) -> SourceConfig:
    """Return a source of drawn images."""
    uri = f"{SCHEME}dead-leaves/{seed}/{images}"
    return SourceConfig(name="dead-leaves", uri=uri, labels="none", test_share=0)


class SyntheticReader(ImageReader):
    """Uris are ``<seed>/<number>``.

    Raises:
        SourceError: if the uri names no such source.
    """

    def __init__(self, source: SourceConfig) -> None:
        super().__init__(source)
        found = re.fullmatch(rf"{SCHEME}dead-leaves/(\d+)/(\d+)", source.uri)
        if found is None:
            raise SourceError(
                f"{source.uri} names no drawn images. Write {SCHEME}dead-leaves/SEED/NUMBER."
            )
        self._seed, self._images = int(found[1]), int(found[2])

    def entries(self) -> pl.DataFrame:
        # Another Pillow may draw other pixels: it stands where the date of a file does.
        drawn_by = _VERSION * 10_000 + int(PIL.__version__.split(".")[0])
        uris = pl.select(pl.format(f"{self._seed}/{{}}", pl.int_range(self._images)))
        return uris.select(
            uri=pl.first(),
            bytes=pl.lit(_SIDE * _SIDE * 3, pl.Int64),
            modified=pl.lit(drawn_by, pl.Int64),
            label=pl.lit(None, pl.String),
            split=pl.lit(None, pl.String),
        )

    def read(self, uri: str) -> bytes:
        seed, number = uri.split("/")
        return draw(int(seed), int(number))


def draw(seed: int, number: int) -> bytes:
    """Draw one image: an uncompressed BMP of 256 x 256 pixels, half of them grey."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))
    is_grey = rng.random() < 0.5
    leaves = 30 + int(rng.random() * 270)
    shares = rng.random((leaves + 1, 8)).tolist()
    corners = rng.random((leaves + 1, 6)).tolist()
    image = Image.new("RGB", (_SIDE, _SIDE), _colour(shares.pop(), is_grey))
    canvas = ImageDraw.Draw(image)
    widest, narrowest = _LARGEST**-2, _SMALLEST**-2
    for share, corner in zip(shares, corners, strict=False):
        radius = _SIDE / math.sqrt(widest + share[3] * (narrowest - widest))
        x, y = (_SIDE * (1.2 * place - 0.1) for place in share[4:6])
        shape, colour = int(share[6] * 3), _colour(share, is_grey)
        if shape == 0:
            flat = radius * (0.4 + 0.6 * share[7])
            canvas.ellipse((x - radius, y - flat, x + radius, y + flat), colour)
        elif shape == 1:
            canvas.regular_polygon((x, y, radius), 4, 360 * share[7], colour)
        else:
            # At least three corners, in order around the middle.
            angles = (2 * math.pi * turn for turn in sorted(corner[: 3 + int(share[7] * 4)]))
            canvas.polygon(
                [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], colour
            )
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return buffer.getvalue()


def _colour(share: list[float], is_grey: bool) -> tuple[int, ...]:
    values = [int(256 * value) for value in share[:3]]
    return (values[0],) * 3 if is_grey else tuple(values)
