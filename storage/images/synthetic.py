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
    shares, corners = rng.random((leaves + 1, 8)), rng.random((leaves + 1, 6)).tolist()
    colours = (256 * shares[:, :3]).astype(int)
    if is_grey:
        colours[:, 1:] = colours[:, :1]
    *inks, ground = map(tuple, colours.tolist())
    image = Image.new("RGB", (_SIDE, _SIDE), ground)
    canvas = ImageDraw.Draw(image)
    widest, narrowest = _LARGEST**-2, _SMALLEST**-2
    radii = (_SIDE / np.sqrt(widest + shares[:, 3] * (narrowest - widest))).tolist()
    middles = (_SIDE * (1.2 * shares[:, 4:6] - 0.1)).tolist()
    shapes, forms = (shares[:, 6] * 3).astype(int).tolist(), shares[:, 7].tolist()
    leaf = zip(inks, radii, middles, shapes, forms, corners, strict=False)
    for ink, radius, (x, y), shape, form, corner in leaf:
        if shape == 0:
            flat = radius * (0.4 + 0.6 * form)
            canvas.ellipse((x - radius, y - flat, x + radius, y + flat), ink)
        elif shape == 1:
            canvas.polygon(_square(x, y, radius, 360 * form), ink)
        else:
            # At least three corners, in order around the middle.
            turns = (2 * math.pi * turn for turn in sorted(corner[: 3 + int(form * 4)]))
            canvas.polygon(
                [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns], ink
            )
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return buffer.getvalue()


def _square(x: float, y: float, radius: float, degrees: float) -> list[tuple[float, float]]:
    """Return what Pillow's ``regular_polygon`` draws, to the same two decimals, far sooner."""
    corners, angle = [], 225 + degrees
    for _ in range(4):
        turn = math.radians(360 - angle)
        corners.append(
            (round(radius * math.cos(turn) + x, 2), round(radius * math.sin(turn) + y, 2))
        )
        angle += 90
        if angle > 360:
            angle -= 360
    return corners
