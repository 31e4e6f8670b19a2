"""Fixtures that more than one room of the house needs."""

import io
import os
from collections.abc import Callable
from pathlib import Path

# Tests run two at a time on two cores: more threads than that only wait for each other. Before
# torch and NumPy are imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
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


@pytest.fixture
def photo_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of photos, in class folders where class names are given."""

    def make(
        count: int, classes: tuple[str, ...] = (), name: str = "photos", first: int = 0
    ) -> Path:
        folder = tmp_path / name
        for i in range(first, first + count):
            place = folder / classes[i % len(classes)] if classes else folder
            place.mkdir(parents=True, exist_ok=True)
            photo(i).save(place / f"photo-{i:04d}.png")
        return folder

    return make
