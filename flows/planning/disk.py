"""The disk below a root: how much it holds, how fast it is."""

import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.filesize import decimal

from storage.root import Root, open_root
from tintem_core.errors import InputError

_PIECE = 16 * 2**20
_PIECES = 4
_LONGEST = 3.0


@dataclass(frozen=True)
class DiskSpeed:
    """Bytes per second, measured through the same calls that the cache uses."""

    write: float
    read: float


def free_bytes(root: Root) -> int | None:
    """Return what is free on the disk of a root; None for an object store."""
    folder = root.path()
    return None if folder is None else shutil.disk_usage(_existing(folder)).free


def require_space(root: Root, needed: int, what: str) -> None:
    """Refuse to start what cannot be finished.

    Raises:
        InputError: if the disk of a root has less free than needed.
    """
    free = free_bytes(root)
    if free is not None and needed > free:
        raise InputError(
            f"{what} needs {decimal(needed)} below {root.url}, but its disk has only "
            f"{decimal(free)} free: choose another root, fewer views, no tokens, or cache.dtype "
            "int8."
        )


def measure_disk(root: Root) -> DiskSpeed:
    """Write and read back up to 64 MiB; nothing of it stays.

    Raises:
        StorageInputError: if nothing can be written there.
    """
    folder = root.path()
    place = root if folder is None else open_root(_existing(folder))
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


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _forget(path: Path | None) -> None:
    """Drop a file from the page cache, so that reading it back measures the disk."""
    if path is not None and hasattr(os, "posix_fadvise"):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
