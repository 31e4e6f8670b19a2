"""Many files seen as one stretch of memory, so that one NumPy gather serves a whole minibatch."""

import ctypes
import mmap
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

_MAP_FIXED = 0x10
# Python 3.11 has no name for it; without it the kernel may refuse to reserve more than its memory.
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0
# Files that begin at a multiple of this are up to 40 % faster to read at random: processors join
# neighbouring pages of a file in their address cache when both addresses are aligned alike.
_BIG_PAGE = 2 * 2**20
_MADVISE = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_MMAP = [*_MADVISE, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_CAN_MAP = sys.platform in ("linux", "darwin")


class Region:
    """Address space with one page-aligned place per file, empty until a file is put there.

    A file is either mapped (its pages are shared by every process that maps it, and nothing is
    copied) or loaded (its bytes lie in this process' memory). Places that hold nothing read as
    zeros; callers must not look there. With ``loaded`` the places are meant for `load` only.
    """

    def __init__(self, sizes: np.ndarray[Any, np.dtype[np.int64]], *, loaded: bool = False) -> None:
        steps = np.minimum(_BIG_PAGE, np.maximum(_power_of_two(sizes), mmap.ALLOCATIONGRANULARITY))
        self.starts = np.zeros(len(sizes) + 1, np.int64)
        for place, (size, step) in enumerate(zip(sizes, steps, strict=True)):
            self.starts[place] = -(-self.starts[place] // step) * step
            self.starts[place + 1] = self.starts[place] + size
        # Anonymous memory costs nothing until it is touched; it also pins the address range.
        flags: dict[str, int] = {}
        if _CAN_MAP:
            flags["flags"] = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        room = int(self.starts[-1]) + _BIG_PAGE
        self._space = mmap.mmap(-1, room + _BIG_PAGE, **flags)
        if loaded and hasattr(mmap, "MADV_HUGEPAGE"):
            self._space.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(self._space, np.uint8)
        first = -whole.ctypes.data % _BIG_PAGE
        self.bytes = whole[first : first + room]
        self._address = self.bytes.ctypes.data

    @property
    def can_map(self) -> bool:
        """Whether this platform can place a file's mapping inside the region."""
        return _CAN_MAP

    def map_file(self, place: int, path: Path, size: int) -> None:
        """Put a file's pages at a place. Raises OSError."""
        with path.open("rb") as stream:
            self._place(place, size, mmap.MAP_SHARED, stream.fileno())
        if hasattr(mmap, "MADV_HUGEPAGE"):
            # Otherwise a file that is not in memory yet comes in page by page, scattered, and stays
            # a third slower to read at random. Where the kernel cannot, nothing changes.
            address = self._address + int(self.starts[place])
            _libc("madvise", _MADVISE)(address, size, mmap.MADV_HUGEPAGE)

    def read_ahead(self, place: int, size: int) -> None:
        """Let the system read all of a mapped file now, in large pieces and beside other work."""
        if hasattr(mmap, "MADV_WILLNEED"):
            address = self._address + int(self.starts[place])
            _libc("madvise", _MADVISE)(address, size, mmap.MADV_WILLNEED)

    def load(self, place: int, data: bytes | memoryview) -> None:
        """Copy bytes to a place."""
        start = int(self.starts[place])
        self.bytes[start : start + len(data)] = np.frombuffer(data, np.uint8)

    def clear(self, place: int) -> None:
        """Give a place's memory, or its mapping, back."""
        size = int(self.starts[place + 1] - self.starts[place])
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self._place(place, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, writable=True)

    def view(self, place: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes at a place."""
        start = int(self.starts[place])
        return self.bytes[start : start + size]

    def _place(
        self, place: int, size: int, flags: int, handle: int, *, writable: bool = False
    ) -> None:
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        address = self._address + int(self.starts[place])
        found = _libc("mmap", _MMAP)(address, size, access, flags | _MAP_FIXED, handle, 0)
        if found != address:
            number = ctypes.get_errno()
            raise OSError(number, f"mmap failed: {os.strerror(number)}")


def _power_of_two(sizes: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
    return np.exp2(np.ceil(np.log2(np.maximum(sizes, 1)))).astype(np.int64)


def _libc(name: str, arguments: list[Any]) -> Any:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    function.restype = ctypes.c_void_p
    function.argtypes = arguments
    return function
