"""JPEG files unpacked without Pillow: to the same pixels, or not at all."""

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from simplejpeg import encode_jpeg

import tintem_pixels.jpeg
from tests.photos import photo
from tintem_pixels import PixelError, decode, decoded_pixels
from tintem_pixels.jpeg import unpacked


def jpeg(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def as_array(data: bytes, shorter_side: int | None = None) -> NDArray[np.uint8]:
    with decoded_pixels(data, shorter_side=shorter_side) as pixels:
        return pixels


def by_pillow(data: bytes, shorter_side: int | None = None) -> NDArray[np.uint8]:
    return np.asarray(decode(data, shorter_side=shorter_side).image)


def is_unpacked(data: bytes) -> bool:
    return unpacked(data, Image.open(io.BytesIO(data))) is not None


def test_pixels_are_pillows_at_every_scale_and_quality() -> None:
    rng = np.random.default_rng(0)
    scaled = 0
    for draw in range(1500):
        width, height = (int(n) for n in rng.integers(32, 160, 2))
        image = photo(draw % 7, (width, height)).convert("L" if draw % 5 == 0 else "RGB")
        subsampling = int(rng.integers(3))
        data = jpeg(
            image,
            quality=int(rng.integers(1, 91)),
            subsampling=subsampling,
            progressive=bool(rng.integers(2)),
            keep_rgb=image.mode == "RGB" and subsampling == 0 and draw % 4 == 1,
        )
        side = int(rng.integers(1, 80)) if draw % 2 else None
        wanted = by_pillow(data, side)
        scaled += wanted.shape[:2] != (height, width)
        assert is_unpacked(data)
        np.testing.assert_array_equal(as_array(data, side), wanted)
    assert scaled > 200


@pytest.mark.parametrize("colours", ["444", "422", "420", "440", "411"])
def test_colours_of_every_resolution_are_pillows(colours: str) -> None:
    for number in range(20):
        pixels = np.array(photo(number, (61 + number, 50)))
        data = encode_jpeg(pixels, colorsubsampling=colours)
        for side in (None, 20):
            np.testing.assert_array_equal(as_array(data, side), by_pillow(data, side))


@pytest.mark.parametrize("side", [1, 2, 7, 8, 9, 31, 33])
def test_tiny_files_are_decoded_as_ever(side: int) -> None:
    data = jpeg(photo(1, (side, 40)))
    for least in (None, 1, 4, 20):
        np.testing.assert_array_equal(as_array(data, least), by_pillow(data, least))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_photos_stand_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(photo(2, (64, 48)), exif=exif)
    pixels = as_array(data)
    assert pixels.shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))
    np.testing.assert_array_equal(pixels, by_pillow(data))


def test_of_several_pictures_in_a_file_the_first_is_shown() -> None:
    data = jpeg(photo(1), "MPO", save_all=True, append_images=[photo(2)])
    assert is_unpacked(data)
    np.testing.assert_array_equal(as_array(data), by_pillow(data))


def test_other_colours_and_other_formats_are_left_to_pillow() -> None:
    inks = jpeg(photo(1).convert("CMYK"))
    lossless = jpeg(photo(1), "PNG")
    for data in (inks, lossless):
        assert not is_unpacked(data)
        np.testing.assert_array_equal(as_array(data), by_pillow(data))


def test_damaged_files_are_refused_or_seen_as_pillow_does() -> None:
    rng = np.random.default_rng(3)
    whole = jpeg(photo(4, (120, 90)), quality=80)
    refused = shown = 0
    for _ in range(1500):
        data = bytearray(whole)
        for place in rng.integers(2, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        damaged = bytes(data[: rng.integers(2, len(data))] if rng.random() < 0.3 else data)
        try:
            wanted = by_pillow(damaged)
        except PixelError as error:
            refused += 1
            with pytest.raises(PixelError) as found:
                as_array(damaged)
            assert str(found.value) == str(error)
            continue
        shown += 1
        np.testing.assert_array_equal(as_array(damaged), wanted)
    assert min(refused, shown) > 100


def test_a_file_of_another_size_than_it_was_opened_with_is_left_to_pillow() -> None:
    small = Image.open(io.BytesIO(jpeg(photo(1, (40, 40)))))
    for size in ((400, 40), (40, 400), (36, 36), (33, 400)):
        assert unpacked(jpeg(photo(1, size)), small) is None


def test_without_the_package_pillow_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(photo(3, (90, 70)))
    wanted = as_array(data)
    monkeypatch.setattr(tintem_pixels.jpeg, "decode_jpeg", None)
    assert not is_unpacked(data)
    np.testing.assert_array_equal(as_array(data), wanted)
