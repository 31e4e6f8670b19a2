"""Whether the disk below a root holds what is coming."""

import shutil
from pathlib import Path

from rich.filesize import decimal

from storage.root import Root
from tintem_core.errors import InputError


def free_bytes(root: Root) -> int | None:
    """Return what is free on the disk of a root; None for an object store."""
    folder = root.path()
    return None if folder is None else shutil.disk_usage(existing(folder)).free


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


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())
