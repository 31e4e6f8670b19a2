"""Images from a Python program, as Parquet files that are a source."""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from storage.errors import SourceError
from storage.root import open_root

_FILE_BYTES = 64 * 2**20
_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "image": pl.Struct({"bytes": pl.Binary, "path": pl.String}),
    "label": pl.String,
    "split": pl.String,
}
Given = bytes | Image.Image | NDArray[Any]


def write_images(
    folder: str, images: Iterable[tuple[str, Given] | tuple[str, Given, str | None]], split: str
) -> str:
    """Write images into Parquet files of about 64 MiB; what is in memory is one of them.

    Args:
        folder: where they go; local or s3://. It may hold other splits already.
        images: name and image, or name, image and label. An image is the bytes of a file, which
            are kept as they are, or a picture of Pillow or an array (H, W) or (H, W, 3) of
            unsigned integers, which become a PNG.
        split: ``train`` or ``test``; the files of a split are written once.

    Returns:
        What to give as ``data.uri``.

    Raises:
        SourceError: if the split is there already, or something is no image; names it.
    """
    root = open_root(folder)
    if any(path.startswith(f"{split}-") for path in root.facts()):
        raise SourceError(
            f"{root.url} holds images of the split {split} already: give another folder, or remove "
            "them."
        )
    rows: list[dict[str, Any]] = []
    held = number = 0
    for name, given, *label in images:
        data = _encoded(name, given)
        rows.append(
            {
                "image": {"bytes": data, "path": name},
                "label": label[0] if label else None,
                "split": split,
            }
        )
        held += len(data)
        if held >= _FILE_BYTES:
            root.write(_name(split, number), _file(rows))
            rows, held, number = [], 0, number + 1
    if rows:
        root.write(_name(split, number), _file(rows))
        number += 1
    if not number:
        raise SourceError(f"no image came for the split {split} of {root.url}: nothing is written.")
    return f"{root.url}/*.parquet"


def _name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.parquet"


def _file(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    # Encoded images do not get smaller.
    pl.DataFrame(rows, _SCHEMA).write_parquet(buffer, compression="uncompressed")
    return buffer.getvalue()


def _encoded(name: str, given: Given) -> bytes:
    if isinstance(given, bytes):
        return given
    buffer = io.BytesIO()
    try:
        if isinstance(given, np.ndarray):
            if given.dtype.kind != "u":
                raise ValueError(f"its dtype is {given.dtype}, not one of unsigned integers")
            given = Image.fromarray(given)
        given.save(buffer, "PNG")
    except (TypeError, ValueError, OSError, AttributeError) as error:
        raise SourceError(
            f"{name} is no image ({error}): give the bytes of a file, a picture of Pillow, or an "
            "array (H, W) or (H, W, 3) of unsigned integers."
        ) from error
    return buffer.getvalue()
