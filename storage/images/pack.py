"""Many images as one local file, each of which one seek finds."""

import io
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl

_COUNT_BYTES, _PLACE_BYTES = 4, 8


def packed(images: pl.Series) -> bytes:
    """Many images as one file, each of which one seek finds.

    Their number, the byte where each begins and where the last ends, the images back to back.
    """
    sizes = images.bin.size().cast(pl.Int64).fill_null(0).to_numpy()
    first = _COUNT_BYTES + _PLACE_BYTES * (len(images) + 1)
    pack = io.BytesIO()
    pack.write(len(images).to_bytes(_COUNT_BYTES, "little"))
    pack.write(np.cumsum([first, *sizes], dtype="<i8").tobytes())
    for data in images:
        pack.write(data or b"")
    return pack.getvalue()


def packed_bytes(pack: Path) -> int:
    """How long a pack is by its own account, which nobody has checked yet."""
    with pack.open("rb") as stream:
        return _pack_place(stream, _pack_count(stream))


def packed_image(pack: Path, row: int) -> bytes:
    """One image of a pack; nothing where it has no such row, or no image in it."""
    with pack.open("rb") as stream:
        if row >= _pack_count(stream):
            return b""
        start, end = _pack_place(stream, row), _pack_place(stream, row + 1)
        stream.seek(start)
        return stream.read(end - start)


def _pack_count(pack: IO[bytes]) -> int:
    return int.from_bytes(pack.read(_COUNT_BYTES), "little")


def _pack_place(pack: IO[bytes], row: int) -> int:
    pack.seek(_COUNT_BYTES + _PLACE_BYTES * row)
    return int.from_bytes(pack.read(_PLACE_BYTES), "little")
