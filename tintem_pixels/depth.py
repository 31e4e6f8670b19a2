"""Grey values of more than 8 bits: which of them is black, which is white.

The range follows from the type of the values and from the file's own tags, so that a dark frame
stays dark beside a bright one. Floats, and whole numbers of 32 bits, say nothing of their range: it
is the smallest usual one that holds them.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Values = NDArray[Any]

# Tags of TIFF.
_BITS, _PHOTOMETRIC, _MAX, _FORMAT, _SMIN, _SMAX = 258, 262, 281, 339, 340, 341
_NO_DATA = 42113
_WHITE_IS_ZERO, _SIGNED = 0, 2
# What programs write into floats where nothing was measured.
_USUAL_NO_DATA = (-999.0, -9999.0, -99999.0, -32767.0, -32768.0)
_LARGEST = 2.0**32
# Resampling overshoots the ends of a range by some percent.
_TOLERANCE = 1.25
# Floats may hold a few pixels of anything.
_FEW = 0.01
# Values that are scaled at once.
_PART = 2**20
# Formats whose values Pillow stretches to 16 bits, and hands out in 32.
_STRETCHED = ("PNG", "PPM", "JPEG2000")


class NoRangeError(ValueError):
    """Values that no range can be given to."""


@dataclass(frozen=True)
class Range:
    """The value that is black and the value that is white."""

    black: float
    white: float

    def eight_bits(self, values: Values) -> NDArray[np.uint8]:
        """Return grey values 0..255; what lies outside is clipped, what is no number is black."""
        scaled = np.empty(values.shape, np.uint8)
        # A part at a time: the shares take eight bytes a pixel.
        rows = max(1, _PART // max(1, values[:1].size))
        for start in range(0, len(values), rows):
            part = slice(start, start + rows)
            scaled[part] = self._eight_bits(values[part])
        return scaled

    def _eight_bits(self, values: Values) -> NDArray[np.uint8]:
        if self.black == 0:
            shares = values / self.white
        else:
            shares = (values - np.float64(self.black)) / (self.white - self.black)
        clipped = np.nan_to_num(np.clip(shares, 0, 1), nan=0.0)
        scaled: NDArray[np.uint8] = (clipped * 255).round().astype(np.uint8)
        return scaled


def grey_range(image: Image.Image, values: Values, bits: int | None) -> Range:
    """Return the range of a grey image.

    Args:
        image: as Pillow opened it, of a mode ``I``, ``I;16…`` or ``F``.
        values: its pixels.
        bits: how many bits of its values are in use; None: as its type and tags say.

    Raises:
        NoRangeError: if no value is finite.
    """
    tags = dict(getattr(image, "tag_v2", {}))
    is_float = values.dtype.kind == "f"
    measured = _measured(values, tags) if is_float else values
    depth, is_signed = _container(image, tags)
    if bits is not None:
        half = 2.0 ** (bits - 1)
        found = Range(-half, half - 1) if _below_zero(measured) else Range(0, 2.0**bits - 1)
    elif is_float and (told := _told(tags)) is not None:
        found = told
    elif depth is None:
        found = _usual(measured, is_float)
    elif is_signed:
        half = 2.0 ** (depth - 1)
        found = Range(-half if _below_zero(measured) else 0, half - 1)
    else:
        found = Range(0, 2.0 ** _used_bits(tags, depth) - 1)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        return Range(found.white, found.black)
    return found


def former_range(values: Values) -> Range:
    """Return the range that releases before 0.2 gave: it followed from the largest value alone.

    An image whose range is as it was keeps its key, and so all that was computed of it.
    """
    largest = float(values.max(initial=0))
    if values.dtype.kind == "f" and largest <= 1:
        return Range(0, 1)
    return Range(0, next(f for f in (255.0, 65535.0, _LARGEST) if largest <= f or f == _LARGEST))


def _container(image: Image.Image, tags: dict[int, Any]) -> tuple[int | None, bool]:
    """Return the bits of the file's values, None where they tell no range; whether signed."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _STRETCHED):
        return 16, False
    if image.mode == "I" and _first(tags.get(_BITS)) == 16:
        return 16, _first(tags.get(_FORMAT)) == _SIGNED
    return None, False


def _used_bits(tags: dict[int, Any], depth: int) -> int:
    """Return how many bits are in use by the tags, all of the container's where they do not tell.

    The largest value counts only where it is the largest of so many bits: many programs write that
    of the brightest pixel, which tells nothing of the range.
    """
    stored = _first(tags.get(_BITS))
    if isinstance(stored, int) and 8 <= stored < depth:
        return stored
    for tag in (_SMAX, _MAX):
        largest = _first(tags.get(tag))
        if isinstance(largest, int | float):
            used = int(largest + 1).bit_length() - 1
            if 8 <= used < depth and largest == 2**used - 1:
                return used
    return depth


def _told(tags: dict[int, Any]) -> Range | None:
    low, high = (_first(tags.get(tag)) for tag in (_SMIN, _SMAX))
    if not isinstance(high, int | float) or not np.isfinite(high):
        return None
    low = low if isinstance(low, int | float) and np.isfinite(low) else 0
    return Range(float(low), float(high)) if low < high else None


def _measured(values: Values, tags: dict[int, Any]) -> Values:
    """Return the values that were measured: finite, and not those that stand for no data."""
    is_measured = np.isfinite(values) & (np.abs(values) <= _LARGEST)
    no_data = list(_USUAL_NO_DATA)
    with suppress(KeyError, ValueError):
        no_data.append(float(str(tags[_NO_DATA]).strip("\0 ")))
    is_measured &= ~np.isin(values, np.array(no_data, values.dtype))
    if not is_measured.any():
        raise NoRangeError("it holds no finite value")
    measured: Values = values[is_measured]
    return measured


def _usual(values: Values, is_float: bool) -> Range:
    """Return the smallest usual range that holds the values, but for a few where they are floats.

    0..1, 0..255, 0..65535, 24 or 32 bits; with values below zero -1..1, -128..127 and so on.
    """
    few = _FEW if is_float else 0.0
    # First: it needs as much memory as what follows.
    below_zero = _below_zero(values)
    sizes = _sizes(values)
    # Whole numbers are no fractions of 1, however dark the image.
    is_fraction = is_float and not (sizes.max() > 1 and (sizes == np.rint(sizes)).all())
    wholes = [128.0, 32768.0, 2.0**31] if below_zero else [255.0, 65535.0, 2.0**24 - 1, _LARGEST]
    usual = [1.0, *wholes] if is_fraction else wholes
    full = next((f for f in usual if _share(sizes > _TOLERANCE * f) <= few), usual[-1])
    if not below_zero:
        return Range(0, full)
    return Range(-full, full if full == 1 else full - 1)


def _below_zero(values: Values) -> bool:
    """Whether values lie around zero, by more than resampling overshoots."""
    largest = np.quantile(_sizes(values), 1 - _FEW, overwrite_input=True)
    return _share(values < (1 - _TOLERANCE) * largest) > _FEW


def _sizes(values: Values) -> NDArray[np.float64]:
    found = values.astype(np.float64)
    return np.abs(found, out=found)


def _share(these: NDArray[np.bool_]) -> float:
    return float(these.mean())


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else value
