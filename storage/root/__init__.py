"""A root: a folder or an object store behind one interface."""

from pathlib import Path

from storage.errors import StorageInputError
from storage.root.base import ObjectFacts, Reading, Root, clean_path
from storage.root.local import LocalRoot

__all__ = ["ObjectFacts", "Reading", "Root", "clean_path", "open_root"]


def open_root(url: str | Path, reading: Reading | None = None) -> Root:
    """Open a folder (made when first written to) or ``s3://bucket/prefix``.

    Args:
        reading: for readers of the root's caches.

    Raises:
        StorageInputError: for any other scheme, or a path that is a file.
    """
    root = _open(str(url))
    root.reading = reading or root.reading
    return root


def _open(url: str) -> Root:
    if url.startswith("s3://"):
        # The client of the object store is only loaded where it is needed.
        from storage.root.s3 import S3Root

        return S3Root(url)
    if "://" in url:
        scheme = url.split("://", 1)[0]
        raise StorageInputError(f"{url}: {scheme}:// is not supported. Use a folder or s3://.")
    return LocalRoot(url)
