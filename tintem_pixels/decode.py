"""An encoded photo as upright RGB of 8 bits.

What is odd about a file is treated so:

- several pages or frames: the first one;
- EXIF orientation, mirrored ones too: turned upright;
- transparent (RGBA, LA, palettes, one transparent colour): seen over white;
- palettes and single bits: as the colours they stand for;
- grey of more than 8 bits: scaled, see :mod:`tintem_pixels.depth`;
- colours of 16 bits: their upper 8, as Pillow gives them;
- CMYK: as Pillow converts it, without a profile;
- colour profiles (ICC): not applied, the values are those of the file.
"""

import hashlib
import io
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tintem_pixels.depth import NoRangeError, former_range, grey_range
from tintem_pixels.formats import FORMATS
from tintem_pixels.jpeg import unpacked
from tintem_pixels.memory import FREE_BYTES, MOST_BYTES, ROOM, memory_of

_ORIENTATION = 0x0112
# A damaged EXIF block says nothing about the pixels.
_DAMAGED = (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error)
# What is converted, or told the digest, at once: copies of large images are what takes memory.
_SIDE = 1024
_PART = _SIDE**2
_Found = TypeVar("_Found")


class PixelError(ValueError):
    """Bytes that are no complete image that Pillow can read."""


@dataclass(frozen=True)
class Photo:
    """A decoded photo."""

    image: Image.Image
    """Upright, RGB."""
    scale: str = ""
    """Which values became black and white, where that differs from what releases before 0.2 did."""

    def digest(self) -> int:
        """Return the identity of the pixels, 64 bits: equal for equal pixels, however encoded."""
        width, height = self.image.size
        found = hashlib.blake2b(struct.pack("<II", width, height), digest_size=8)
        rows = max(1, _PART // width)
        for top in range(0, height, rows):
            part = self.image.crop((0, top, width, min(top + rows, height)))
            found.update(part.tobytes())
        return int.from_bytes(found.digest(), "little")


class _LargeError(PixelError):
    """A photo that takes more memory than is given to it."""

    def __init__(self, bytes: int, most: int) -> None:
        super().__init__(
            f"it would take {bytes / 1e6:,.0f} MB of memory to decode, and at most "
            f"{most / 1e6:,.0f} MB are given to one photo"
        )
        self.bytes = bytes


def decode(
    data: bytes,
    bits: int | None = None,
    *,
    most_pixels: int | None = None,
    shorter_side: int | None = None,
) -> Photo:
    """Decode an encoded photo.

    Args:
        data: the bytes of a file.
        bits: how many bits are in use in grey values that are stored in more than 8.
        most_pixels: more are refused before they are decoded; None: as many as Pillow lets pass.
        shorter_side: in pixels; a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its shorter
            side is no shorter than this then; None: whole.

    Raises:
        PixelError: with the reason; also if it would take more than 1 GiB of memory.
    """
    return _decode(partial(_photo, bits), data, bits, most_pixels, shorter_side, MOST_BYTES)


@contextmanager
def decoded(
    data: bytes, bits: int | None = None, *, shorter_side: int | None = None
) -> Iterator[Photo]:
    """Decode a photo for the length of a block; its pixels are gone afterwards.

    Where many threads do so at once, large photos wait until there is memory for them. Blocks must
    not lie in each other.

    Args:
        data, bits, shorter_side: see :func:`decode`.

    Raises:
        PixelError: see :func:`decode`.
    """
    with _held(partial(_photo, bits), data, bits, shorter_side) as photo:
        try:
            yield photo
        finally:
            # Not whenever it happens to be collected.
            photo.image.close()


@contextmanager
def decoded_pixels(
    data: bytes, bits: int | None = None, *, shorter_side: int | None = None
) -> Iterator[NDArray[np.uint8]]:
    """As :func:`decoded`, but an array, RGB, (H, W, 3): of a JPEG that takes less time."""
    with _held(partial(_pixels, data, bits), data, bits, shorter_side) as pixels:
        yield pixels


@contextmanager
def _held(
    find: Callable[[Image.Image], _Found],
    data: bytes,
    bits: int | None,
    shorter_side: int | None,
) -> Iterator[_Found]:
    found, bytes = None, 0
    try:
        found = _decode(find, data, bits, None, shorter_side, FREE_BYTES)
    except _LargeError as error:
        bytes = error.bytes
    # What takes too much is refused without a wait.
    with ROOM.hold(bytes if bytes <= MOST_BYTES else 0):
        if found is None:
            found = _decode(find, data, bits, None, shorter_side, MOST_BYTES)
        yield found


def _decode(
    find: Callable[[Image.Image], _Found],
    data: bytes,
    bits: int | None,
    most_pixels: int | None,
    shorter_side: int | None,
    most_bytes: int,
) -> _Found:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            _refuse_many(opened, most_pixels)
            _refuse_deep_colours(opened, bits)
            if shorter_side is not None:
                width, height = opened.size
                least = shorter_side / min(width, height)
                opened.draft(None, (math.ceil(width * least), math.ceil(height * least)))
            if (needed := memory_of(opened)) > most_bytes:
                raise _LargeError(needed, most_bytes)
            return find(opened)
    except PixelError:
        raise
    except UnidentifiedImageError as error:
        raise PixelError("it is no image that Pillow can read") from error
    # Damaged bytes can make a decoder fail anywhere, with TypeError or OverflowError as well.
    except Exception as error:
        raise PixelError(str(error) or type(error).__name__) from error


def _photo(bits: int | None, opened: Image.Image) -> Photo:
    upright = _upright(opened)
    is_deep = upright.mode.startswith(("I", "F"))
    photo = _from_grey(opened, upright, bits) if is_deep else Photo(_over_white(upright))
    if photo.image is not opened:
        # Files are parts of circles, which Python finds whenever it looks for them.
        opened.close()
    return photo


def _pixels(data: bytes, bits: int | None, opened: Image.Image) -> NDArray[np.uint8]:
    found = unpacked(data, opened) if _is_upright(opened) else None
    return np.array(_photo(bits, opened).image) if found is None else found


def _refuse_many(opened: Image.Image, most: int | None) -> None:
    pixels = opened.width * opened.height
    if most is not None and pixels > most:
        raise PixelError(f"it has {pixels:,} pixels, and at most {most:,} are taken")


def _from_grey(opened: Image.Image, upright: Image.Image, bits: int | None) -> Photo:
    values: NDArray[Any] = np.asarray(upright)
    found = grey_range(opened, values, bits)
    grey = Image.fromarray(found.eight_bits(values))
    clear = opened.info.get("transparency")
    if isinstance(clear, int):
        # One value stands for transparent.
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    scale = "" if found == former_range(values) else f"{found.black:g}..{found.white:g}"
    return Photo(_over_white(grey), scale)


def _refuse_deep_colours(opened: Image.Image, bits: int | None) -> None:
    """Raises NoRangeError where a number of bits is asked for, and Pillow drops the lower ones."""
    if bits in (None, 16) or opened.mode.startswith(("I", "F")):
        return
    if any(";16" in str(tile[3]) for tile in getattr(opened, "tile", [])):
        raise NoRangeError(
            f"of its 16-bit colours only the upper 8 bits are read, so that {bits} bits "
            "(data.bits) cannot be scaled: save it with values up to 65535, or as grey"
        )


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return image if _is_upright(image) else ImageOps.exif_transpose(image)
    except _DAMAGED:
        return image


def _is_upright(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get(_ORIENTATION, 1) == 1)
    except _DAMAGED:
        return True


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    flat = Image.new("RGB", image.size)
    for box in _parts(image.size):
        # The colours behind transparent pixels are whatever a program left there.
        part = image.crop(box).convert("RGBA")
        part = Image.alpha_composite(Image.new("RGBA", part.size, "white"), part)
        flat.paste(part.convert("RGB"), box)
    return flat


def _parts(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Cut an image into pieces: their left, top, right and bottom."""
    width, height = size
    for top in range(0, height, _SIDE):
        for left in range(0, width, _SIDE):
            yield left, top, min(left + _SIDE, width), min(top + _SIDE, height)
