"""Opening every image once: its key, its size, or why it cannot be read."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import polars as pl
from PIL import Image, UnidentifiedImageError

from storage.errors import DeniedError, MissingObjectError
from storage.identity import content_key
from storage.images.source import ImageReader

LOOK_SCHEMA = {
    "uri": pl.String,
    "key": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
    "reason": pl.String,
}
_BATCH = 1024


def inspect(reader: ImageReader, uris: pl.Series, check: str) -> Iterator[pl.DataFrame]:
    """Key and size of every image, or why it cannot be read, a batch at a time."""

    def look(uri: str) -> tuple[str, str | None, int | None, int | None, str | None]:
        try:
            data = reader.read(uri)
            return uri, content_key(data), *_image_size(data, check), None
        except MissingObjectError:
            reason = "the file is missing" + (r", or its name is no UTF-8" if r"\x" in uri else "")
        except (DeniedError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
        return uri, None, None, None, reason

    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        for part in uris.to_frame().iter_slices(_BATCH):
            found = list(pool.map(look, part["uri"]))
            yield pl.DataFrame(found, schema=LOOK_SCHEMA, orient="row")


def _image_size(data: bytes, check: str) -> tuple[int, int]:
    """Width and height. Raises ValueError with the reason if Pillow cannot read the image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            if check == "decode":
                # A JPEG decoded at an eighth still reads every byte: a truncated file is found.
                image.draft("RGB", (max(width // 8, 1), max(height // 8, 1)))
                image.load()
    except UnidentifiedImageError as error:
        raise ValueError("it is no image that Pillow can read") from error
    # Damaged bytes can make a decoder fail anywhere, with TypeError or OverflowError as well.
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return width, height
