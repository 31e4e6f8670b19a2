"""Images that were found to be others than those indexed, though nothing else tells.

A file may be replaced by one of the same size and date. What finds out leaves a mark, so that the
next index looks at the file again.
"""

from dataclasses import replace

import polars as pl

from storage.identity import content_key, distinct_slug
from storage.images.manifest import FOLDER, Manifest
from storage.root import Root


def mark_changed(root: Root, dataset: str, uri: str) -> None:
    """Have an image looked at again when its dataset is indexed next."""
    root.write(f"{_marks(dataset)}/{content_key(uri.encode())}", uri.encode())


def without_changed(root: Root, manifest: Manifest) -> Manifest:
    """A manifest less the images that are marked."""
    paths = root.list(_marks(manifest.source.name))
    if not paths:
        return manifest
    uris = [data.decode() for data in root.read_many(paths) if data is not None]
    is_sound = ~pl.col("uri").is_in(uris)
    return replace(
        manifest,
        table=manifest.table.filter(is_sound),
        duplicates=manifest.duplicates.filter(is_sound),
        left_out=manifest.left_out.filter(is_sound),
    )


def forget_changed(root: Root, dataset: str) -> None:
    """Remove the marks, once a new manifest is stored."""
    if root.list(_marks(dataset)):
        root.delete(_marks(dataset))


def _marks(dataset: str) -> str:
    return f"{FOLDER}/{distinct_slug(dataset)}.changed"
