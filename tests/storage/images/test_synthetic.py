"""Drawn images: a source like any other."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from storage.errors import SourceError
from storage.images import SourceConfig, build_manifest, open_reader
from storage.images.synthetic import draw, synthetic_source


def pixels(seed: int, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(draw(seed, number))))


def test_an_image_is_a_function_of_seed_and_number() -> None:
    assert draw(3, 7) == draw(3, 7)
    others = {draw(3, 7), draw(3, 8), draw(4, 7)}
    assert len(others) == 3
    assert pixels(3, 7).shape == (256, 256, 3)


def test_images_are_those_that_caches_and_students_were_made_with() -> None:
    found = hashlib.sha256(
        b"".join(draw(seed, seed * number) for seed in (0, 9) for number in range(20))
    )
    assert found.hexdigest() == "79cd6c55b9af553497282ebe7a5bd7d7cfb8fc20948358b464a5e7c2c680ed7d"


def test_about_half_are_grey_and_none_is_flat() -> None:
    images = [pixels(0, number) for number in range(60)]
    grey = sum(bool((image == image[..., :1]).all()) for image in images)
    assert 18 <= grey <= 42
    assert min(float(image.std()) for image in images) > 2


def test_a_manifest_of_drawn_images_is_the_same_wherever_it_is_made() -> None:
    source = synthetic_source(12, seed=5)
    first, second = build_manifest(source), build_manifest(source)
    assert first.id == second.id
    assert first.table.height == 12
    assert set(first.table["split"]) == {"train"}
    assert first.classes == []
    again = build_manifest(synthetic_source(20, seed=5))
    assert set(first.keys()) < set(again.keys())


def test_a_source_that_is_no_source_of_drawn_images_is_refused() -> None:
    with pytest.raises(SourceError, match="synthetic:dead-leaves/SEED/NUMBER"):
        open_reader(SourceConfig(name="x", uri="synthetic:flowers/0/10"))
