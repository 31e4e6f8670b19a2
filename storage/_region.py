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
_CAN_MAP = sys.platform in ("linux", "darwin")


class Region:
    """Address space with one page-aligned place per file, empty until a file is put there.

    A file is either mapped (its pages are shared by every process that maps it, and nothing is
    copied) or loaded (its bytes lie in this process' memory). Places that hold nothing read as
    zeros; callers must not look there.
    """

    def __init__(self, sizes: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        pages = -(-sizes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self.starts = np.concatenate([[0], np.cumsum(pages)]).astype(np.int64)
        # Anonymous memory costs nothing until it is touched; it also pins the address range.
        flags: dict[str, int] = {}
        if _CAN_MAP:
            flags["flags"] = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self._space = mmap.mmap(-1, max(int(self.starts[-1]), mmap.PAGESIZE), **flags)
        self.bytes = np.frombuffer(self._space, np.uint8)
        self._address = self.bytes.ctypes.data

    @property
    def can_map(self) -> bool:
        """Whether this platform can place a file's mapping inside the region."""
        return _CAN_MAP

    def map_file(self, place: int, path: Path, size: int) -> None:
        """Put a file's pages at a place. Raises OSError."""
        with path.open("rb") as stream:
            self._place(place, size, mmap.MAP_SHARED, stream.fileno())

    def load(self, place: int, data: bytes) -> None:
        """Copy bytes to a place."""
        start = int(self.starts[place])
        self.bytes[start : start + len(data)] = np.frombuffer(data, np.uint8)

    def clear(self, place: int) -> None:
        """Give a place's memory, or its mapping, back."""
        size = int(self.starts[place + 1] - self.starts[place])
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
        found = _libc_mmap()(address, size, access, flags | _MAP_FIXED, handle, 0)
        if found != address:
            number = ctypes.get_errno()
            raise OSError(number, f"mmap failed: {os.strerror(number)}")


def _libc_mmap() -> Any:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int64,
    ]
    return function
