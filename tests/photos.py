"""Pictures to test with."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def photo(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A picture with large and small structures: gradients, a disc, and noise."""
    rng = np.random.default_rng(seed)
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    centre = rng.uniform(0.2, 0.8, 2) * (height, width)
    disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (0.25 * height) ** 2
    planes = [
        128 + 80 * np.sin(x / rng.uniform(3, 12) + rng.uniform(0, 6))
        + 60 * disc * rng.choice([-1, 1]) + rng.normal(0, 12, (height, width))
        for _ in range(3)
    ]  # fmt: skip
    return Image.fromarray(np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def write_photos(folder: Path, numbers: Iterable[int]) -> None:
    """Write pictures in two class folders, in turn."""
    for i in numbers:
        path = folder / ("disc", "plain")[i % 2] / f"photo-{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(i).save(path)
