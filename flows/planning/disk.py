"""How fast the disk below a root is."""

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.data.space import existing
from storage.root import Root, open_root

_PIECE = 16 * 2**20
_PIECES = 4
_LONGEST = 3.0


@dataclass(frozen=True)
class DiskSpeed:
    """Bytes per second, measured through the same calls that the cache uses."""

    write: float
    read: float


def measure_disk(root: Root) -> DiskSpeed:
    """Write and read back up to 64 MiB; nothing of it stays.

    Raises:
        StorageInputError: if nothing can be written there.
    """
    folder = root.path()
    place = root if folder is None else open_root(existing(folder))
    name = f".tintem-probe-{secrets.token_hex(6)}"
    data = np.random.default_rng().bytes(_PIECE)
    try:
        started = time.perf_counter()
        pieces = 0
        while pieces < _PIECES and time.perf_counter() - started < _LONGEST:
            place.write(f"{name}/{pieces}", data)
            pieces += 1
        writing = time.perf_counter() - started
        paths = [f"{name}/{i}" for i in range(pieces)]
        for path in paths:
            _forget(place.path(path))
        started = time.perf_counter()
        for path in paths:
            place.read(path)
        reading = time.perf_counter() - started
    finally:
        place.delete(name)
    return DiskSpeed(pieces * _PIECE / writing, pieces * _PIECE / reading)


def _forget(path: Path | None) -> None:
    """Drop a file from the page cache, so that reading it back measures the disk."""
    if path is not None and hasattr(os, "posix_fadvise"):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
