"""How much memory the decoding of a photo takes, and how many are decoded beside each other.

A file of some kilobytes may hold an image of gigabytes, and a folder very many of them.
"""

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

MOST_BYTES = 2**30
"""What takes more than this is refused."""
FREE_BYTES = 16 * 2**20
"""What takes no more than this is decoded whatever else is."""
_BYTES_PER_CORE = 64 * 2**20
_GIVEN_BACK_BYTES = 128 * 2**20

# Bytes per pixel at the highest point, measured with images of 16 megapixels: the values in their
# mode, then as RGB. A range of 32-bit values is found by statistics over all of them.
_BY_MODE = {"RGB": 5, "RGBX": 5, "L": 6, "P": 6, "1": 6, "I;16": 10, "I;16L": 10, "I;16B": 10,
            "I": 20, "F": 20}  # fmt: skip
_OTHER_MODES = 10
# What the decoder of a format holds besides.
_BY_FORMAT = {"BMP": 0, "GIF": 0, "JPEG": 0, "MPO": 0, "PNG": 0, "PPM": 0, "TIFF": 4, "AVIF": 6,
              "HEIF": 6, "WEBP": 12, "JPEG2000": 16}  # fmt: skip
_OTHER_FORMATS = 8
# A progressive JPEG is decoded from all of its coefficients.
_PROGRESSIVE = 5


def memory_of(opened: Image.Image) -> int:
    """Return about how many bytes the decoding of an image takes that Pillow has opened."""
    per_pixel = _BY_MODE.get(opened.mode, _OTHER_MODES)
    per_pixel += _BY_FORMAT.get(opened.format or "", _OTHER_FORMATS)
    if opened.info.get("progressive"):
        per_pixel += _PROGRESSIVE
    return per_pixel * opened.width * opened.height


def _give_back() -> None:
    """Return freed memory to the system before the next image takes its own; glibc keeps it."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


class _Room:
    """Memory that the threads of a process share."""

    def __init__(self, bytes: int) -> None:
        self._bytes = bytes
        self.reset()

    def reset(self) -> None:
        """Forget who holds any: of a fork, none of the threads is there."""
        self._taken = 0
        self._freed = threading.Condition()

    @contextmanager
    def hold(self, bytes: int) -> Iterator[None]:
        """Wait until there is room for so much, and take it; one alone always has room."""
        if not bytes:
            yield
            return
        with self._freed:
            self._freed.wait_for(lambda: not self._taken or self._taken + bytes <= self._bytes)
            self._taken += bytes
        try:
            yield
        finally:
            if bytes > _GIVEN_BACK_BYTES:
                _give_back()
            with self._freed:
                self._taken -= bytes
                self._freed.notify_all()


ROOM = _Room(max(MOST_BYTES // 2, _BYTES_PER_CORE * (os.cpu_count() or 1)))
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ROOM.reset)
