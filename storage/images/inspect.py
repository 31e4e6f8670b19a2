"""Opening every image once: its key, its size, or why it cannot be read."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import polars as pl
from PIL import Image, UnidentifiedImageError

from storage.errors import DeniedError, MissingObjectError
from storage.identity import content_key
from storage.images.source import ImageReader, SourceConfig
from tintem_pixels import Photo, decoded

LOOK_SCHEMA = {
    "uri": pl.String,
    "key": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
    "pixels": pl.UInt64,
    "reason": pl.String,
}
_BATCH = 1024


def inspect(reader: ImageReader, uris: pl.Series, source: SourceConfig) -> Iterator[pl.DataFrame]:
    """Key, size and pixels of every image, or why it cannot be read, a batch at a time."""
    look_at = _decoded if source.check == "decode" else _opened

    def look(uri: str) -> tuple[str, str | None, int | None, int | None, int | None, str | None]:
        try:
            return uri, *look_at(reader.read(uri), source.bits), None
        except MissingObjectError:
            reason = "the file is missing" + (r", or its name is no UTF-8" if r"\x" in uri else "")
        except (DeniedError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
        return uri, None, None, None, None, reason

    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        for part in uris.to_frame().iter_slices(_BATCH):
            found = list(pool.map(look, part["uri"]))
            yield pl.DataFrame(found, schema=LOOK_SCHEMA, orient="row")


def is_image(data: bytes, key: str, bits: int | None) -> bool:
    """Whether bytes are the image of a key."""
    if content_key(data) == key:
        return True
    try:
        with decoded(data, bits) as photo:
            return photo_key(data, photo) == key
    except ValueError:
        return False


def photo_key(data: bytes, photo: Photo) -> str:
    """The identity of an image: its bytes, and what became black and white where that counts."""
    return content_key(data + b"\0" + photo.scale.encode() if photo.scale else data)


def _decoded(data: bytes, bits: int | None) -> tuple[str, int, int, int | None]:
    with decoded(data, bits) as photo, Image.open(io.BytesIO(data)) as image:
        return photo_key(data, photo), *image.size, photo.digest()


def _opened(data: bytes, bits: int | None) -> tuple[str, int, int, int | None]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            size, is_deep = image.size, image.mode.startswith(("I", "F"))
    except UnidentifiedImageError as error:
        raise ValueError("it is no image that Pillow can read") from error
    # Damaged bytes can make a decoder fail anywhere, with TypeError or OverflowError as well.
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error
    # The range of deep values is part of the key, and only all of them tell it.
    if not is_deep:
        return content_key(data), *size, None
    with decoded(data, bits) as photo:
        return photo_key(data, photo), *size, None
