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
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tintem_pixels.depth import NoRangeError, former_range, grey_range
from tintem_pixels.formats import FORMATS


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
        size = struct.pack("<II", *self.image.size)
        found = hashlib.blake2b(size + self.image.tobytes(), digest_size=8)
        return int.from_bytes(found.digest(), "little")


def decode(data: bytes, bits: int | None = None, *, most_pixels: int | None = None) -> Photo:
    """Decode an encoded photo.

    Args:
        data: the bytes of a file.
        bits: how many bits are in use in grey values that are stored in more than 8.
        most_pixels: more are refused before they are decoded; None: as many as Pillow lets pass.

    Raises:
        PixelError: with the reason.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            _refuse_large(opened, most_pixels)
            _refuse_deep_colours(opened, bits)
            upright = _upright(opened)
            if upright.mode.startswith(("I", "F")):
                return _from_grey(opened, upright, bits)
            return Photo(_over_white(upright))
    except UnidentifiedImageError as error:
        raise PixelError("it is no image that Pillow can read") from error
    # Damaged bytes can make a decoder fail anywhere, with TypeError or OverflowError as well.
    except Exception as error:
        raise PixelError(str(error) or type(error).__name__) from error


def _refuse_large(opened: Image.Image, most: int | None) -> None:
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
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error):
        # A damaged EXIF block says nothing about the pixels.
        return image


def _over_white(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        # The colours behind transparent pixels are whatever a program left there.
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
