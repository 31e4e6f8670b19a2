"""The right pixel values of every odd kind of file."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, TiffImagePlugin

from tests.photos import encoded, photo
from tintem_pixels import PixelError, decode

GREY: NDArray[Any] = np.asarray(photo(1, (64, 64)).convert("L"))
FRACTIONS = GREY.astype(np.float32) / np.float32(255)


def seen(data: bytes, bits: int | None = None) -> NDArray[Any]:
    """Grey values of a decoded photo, or its colours where it has some."""
    pixels = np.asarray(decode(data, bits).image)
    return pixels[..., 0] if (pixels == pixels[..., :1]).all() else pixels


def tiff(values: NDArray[Any], **tags: Any) -> bytes:
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        number = int(name.removeprefix("tag_"))
        directory[number] = value
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo=directory)
    return buffer.getvalue()


def changed(values: NDArray[Any], value: float, count: int = 1) -> NDArray[Any]:
    values = values.copy()
    values.reshape(-1)[:count] = value
    return values


@pytest.mark.parametrize(
    "values",
    [
        changed(FRACTIONS, np.nan),
        changed(FRACTIONS, np.inf),
        changed(FRACTIONS, -np.inf),
        changed(FRACTIONS, np.nan, 2000),
        changed(FRACTIONS, 1.02),
        changed(FRACTIONS, 1.02, 400),
        changed(FRACTIONS, -0.02, 400),
        changed(FRACTIONS, 40),
        changed(FRACTIONS, -9999, 1000),
        changed(FRACTIONS, 3.4e38),
        changed(FRACTIONS * 255, np.nan),
        changed(FRACTIONS * 255, 255.4),
        changed(FRACTIONS * 255, -9999),
        FRACTIONS * 255 - np.float32(0.3),
        FRACTIONS * 65535,
        FRACTIONS * 2 - 1,
        changed(FRACTIONS * 2 - 1, np.nan),
    ],
)
def test_the_range_of_floats_does_not_follow_from_single_values(values: NDArray[Any]) -> None:
    found = seen(encoded(Image.fromarray(values), "TIFF")).reshape(-1)[2000:]
    np.testing.assert_allclose(found, GREY.reshape(-1)[2000:], atol=1)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_dark_frame_of_sixteen_bits_stays_dark_whatever_its_brightest_pixel(form: str) -> None:
    for brightest in (255, 256, 300):
        frame = changed(GREY.astype(np.uint16), brightest)
        found = seen(encoded(Image.fromarray(frame), form))
        np.testing.assert_allclose(found, frame / 257, atol=0.51)


def test_dark_whole_numbers_in_floats_are_no_fractions() -> None:
    frame = changed((GREY > 150).astype(np.float32), 200, 3)
    assert seen(encoded(Image.fromarray(frame), "TIFF")).reshape(-1)[3:].max() == 1


def test_twelve_bits_in_sixteen_are_told_by_the_settings_or_by_the_tags() -> None:
    frame = np.round(FRACTIONS * 4095).astype(np.uint16)
    for form in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(frame), form)
        np.testing.assert_allclose(seen(data, 12), GREY, atol=1)
        assert seen(data).max() <= 16
    np.testing.assert_allclose(seen(tiff(frame, tag_281=4095)), GREY, atol=1)
    # The brightest pixel of this frame is no range.
    assert seen(tiff(frame, tag_281=int(frame.max()))).max() <= 16


def test_a_number_of_bits_is_true_of_floats_too() -> None:
    data = encoded(Image.fromarray((FRACTIONS * 4095).astype(np.float32)), "TIFF")
    np.testing.assert_allclose(seen(data, 12), GREY, atol=1)
    plain = encoded(photo(2))
    np.testing.assert_array_equal(seen(plain, 12), seen(plain))


def test_signed_values_and_values_whose_white_is_zero() -> None:
    half = (FRACTIONS * 32767).astype(np.int16)
    buffer = io.BytesIO()
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    directory[339] = 2
    Image.fromarray(half.view(np.uint16)).save(buffer, "TIFF", tiffinfo=directory)
    np.testing.assert_allclose(seen(buffer.getvalue()), GREY, atol=1)
    # Pillow writes that black is zero, whatever it is asked: the byte is changed by hand.
    inverted = tiff((65535 - GREY.astype(np.uint16) * 257).astype(np.uint16))
    black_is_zero = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    assert inverted.count(black_is_zero) == 1
    inverted = inverted.replace(black_is_zero, struct.pack("<HHIHH", 262, 3, 1, 0, 0))
    np.testing.assert_allclose(seen(inverted), GREY, atol=1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_photo_without_a_finite_value_is_refused(value: float) -> None:
    data = encoded(Image.fromarray(np.full((8, 8), value, np.float32)), "TIFF")
    with pytest.raises(PixelError, match="it holds no finite value"):
        decode(data)


def deep_colours() -> bytes:
    """A PNG of 16-bit colours, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    rows = b"\0" + np.full((2, 3), 0x80FF, ">u2").tobytes()
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows * 2)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_colours_of_sixteen_bits_are_their_upper_eight_and_no_other_number_of_bits() -> None:
    for bits in (None, 16):
        assert (np.asarray(decode(deep_colours(), bits).image) == 0x80).all()
    with pytest.raises(PixelError, match=r"12 bits \(data\.bits\) cannot be scaled: save it"):
        decode(deep_colours(), 12)


def test_the_first_page_or_frame_is_the_photo() -> None:
    first, second = (photo(seed).quantize(16).convert("RGB") for seed in (1, 2))
    for form in ("TIFF", "WEBP", "PNG"):
        buffer = io.BytesIO()
        options: dict[str, Any] = {} if form != "WEBP" else {"lossless": True}
        first.save(buffer, form, save_all=True, append_images=[second], **options)
        np.testing.assert_array_equal(seen(buffer.getvalue()), np.asarray(first))


def test_a_palette_is_its_colours_and_a_bit_is_black_or_white() -> None:
    palette = photo(3).quantize(16)
    np.testing.assert_array_equal(seen(encoded(palette)), np.asarray(palette.convert("RGB")))
    bit = photo(3).convert("1")
    np.testing.assert_array_equal(seen(encoded(bit)), np.asarray(bit) * 255)


def test_inks_become_the_colours_that_pillow_gives() -> None:
    inks = photo(4).convert("CMYK")
    found = seen(encoded(inks, "TIFF"))
    np.testing.assert_array_equal(found, np.asarray(photo(4)))


def test_a_colour_profile_is_not_applied() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    buffer = io.BytesIO()
    photo(5).save(buffer, "PNG", icc_profile=profile)
    np.testing.assert_array_equal(seen(buffer.getvalue()), np.asarray(photo(5)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True])
def test_every_orientation_gives_the_same_upright_photo(orientation: int, deep: bool) -> None:
    turn = Image.Transpose
    back = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    upright = photo(6, (30, 20))
    if deep:
        grey = np.asarray(upright.convert("L")).astype(np.uint16) * 257
        upright = Image.fromarray(grey)
    stored = upright.transpose(back[orientation]) if orientation in back else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    for form in ("PNG", "TIFF"):
        buffer = io.BytesIO()
        stored.save(buffer, form, exif=exif)
        wanted = np.asarray(upright) // (257 if deep else 1)
        np.testing.assert_array_equal(seen(buffer.getvalue()), wanted)


def test_equal_pixels_have_one_digest_however_they_are_stored() -> None:
    image = photo(7).quantize(16)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.convert("RGB").transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    files = [
        encoded(image),
        encoded(image.convert("RGB")),
        encoded(image.convert("RGBA")),
        encoded(image.convert("RGB"), "BMP"),
        encoded(image.convert("RGB"), "TIFF"),
        turned.getvalue(),
    ]
    assert len({decode(data).digest() for data in files}) == 1
    assert decode(encoded(photo(8))).digest() != decode(files[0]).digest()
    # The same bytes of pixels in another shape are another picture.
    wide, tall = (encoded(Image.new("RGB", size, "red")) for size in ((4, 8), (8, 4)))
    assert decode(wide).digest() != decode(tall).digest()
