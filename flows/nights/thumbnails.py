"""Small pictures of photos, for a page that holds them."""

import io

from PIL import Image

from storage.errors import MissingObjectError
from storage.images import ImageReader, is_image
from tintem_core.errors import InputError
from tintem_core.views import decode_image

_SIDE = 160


def thumbnail(images: ImageReader, uri: str, key: str) -> bytes | None:
    """Return a JPEG of at most 160 pixels a side; None where the photo is not there any more."""
    try:
        data = images.read(uri)
        if not is_image(data, key, images.source.bits):
            return None
        picture = decode_image(data, images.source.bits)
    except (MissingObjectError, InputError):
        return None
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=80)
    return packed.getvalue()
