"""Common corruptions: what each does to an image, on real draws and odd images."""

import numpy as np
import pytest

from tests.photos import photo
from tintem_core.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corruption_of
from tintem_core.views import EVAL, render_view

SIDE = 64


def image(number: int = 1) -> np.ndarray:
    return render_view(photo(number, (160, 120)), "key", 0, EVAL, SIDE, SIDE)


def corrupted(pixels: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    return corrupt(pixels, name, severity, np.random.default_rng(seed))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_strongest_changes_more_than_the_mildest(name: str) -> None:
    # The first two severities of the elastic transform are of another kind than the others.
    mildest = 2 if name == "elastic_transform" else 0
    changes = np.zeros(2)
    for number in range(6):
        pixels = image(number)
        for place, severity in enumerate((mildest, SEVERITIES - 1)):
            found = corrupted(pixels, name, severity, number)
            assert (found.shape, found.dtype) == (pixels.shape, np.uint8)
            changes[place] += np.abs(found.astype(int) - pixels).mean()
    assert 0 < changes[0] < changes[1]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_it_is_a_function_of_the_generator(name: str) -> None:
    first, again = (corrupted(image(), name, 2, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("side", [16, 33, 224])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_images_of_any_size_are_corrupted_without_an_error(side: int, value: int) -> None:
    flat = np.full((side, side, 3), value, np.uint8)
    for name in CORRUPTIONS:
        for severity in range(SEVERITIES):
            assert corrupted(flat, name, severity).shape == flat.shape


def test_what_is_known_of_a_corruption_holds() -> None:
    grey = np.full((SIDE, SIDE, 3), 128, np.uint8)
    spread = corrupted(grey, "gaussian_noise", 0).std() / 255
    assert spread == pytest.approx(0.08, abs=0.005)
    assert corrupted(grey, "shot_noise", 1).std() / 255 == pytest.approx(0.14, abs=0.01)
    salted = corrupted(grey, "impulse_noise", 4)
    assert np.isin(salted, (0, 255)).mean() == pytest.approx(0.27, abs=0.02)
    assert (corrupted(grey, "brightness", 0) == 128 + 26).mean() > 0.99
    pixels = image()
    for blur in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"):
        assert corrupted(pixels, blur, 4).std() < pixels.std()
    flatter = corrupted(pixels, "contrast", 4).astype(float)
    assert flatter.std(axis=(0, 1)) == pytest.approx(0.05 * pixels.std(axis=(0, 1)), abs=0.4)
    blocks = corrupted(pixels, "pixelate", 4).reshape(16, 4, 16, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()


def test_a_view_names_its_corruption() -> None:
    assert corruption_of(0) == ("gaussian_noise", 0)
    assert corruption_of(74) == ("jpeg_compression", 4)
    assert len({corruption_of(view) for view in range(75)}) == 75
