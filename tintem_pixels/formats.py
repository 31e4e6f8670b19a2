"""Which files Pillow can decode here, by suffix."""

import importlib
import importlib.util

from PIL import Image, ImageFile, features

# Formats whose decoder is a library that Pillow may have been built without.
_LIBRARIES = {"AVIF": "avif", "JPEG": "jpg", "JPEG2000": "jpg_2000", "MPO": "jpg", "PNG": "zlib",
              "WEBP": "webp"}  # fmt: skip
# Pillow reads the headers of these, and no pixels.
_HEADERS_ONLY = {"IPTC", "MPEG"}
# A program rather than a picture: Pillow has Ghostscript run it.
_PROGRAMS = {"EPS"}
# Saved under their own suffix, opened as JPEG.
_OPENED_AS = {"MPO": "JPEG"}


def _register_heif() -> None:
    """Teach Pillow HEIC where pillow-heif is installed."""
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()


def _decodes(form: str) -> bool:
    opener = Image.OPEN.get(_OPENED_AS.get(form, form))
    if opener is None or form in _HEADERS_ONLY | _PROGRAMS:
        return False
    if isinstance(opener[0], type) and issubclass(opener[0], ImageFile.StubImageFile):
        return False
    return form not in _LIBRARIES or features.check(_LIBRARIES[form]) is True


def _suffixes() -> frozenset[str]:
    _register_heif()
    Image.init()
    registered = Image.registered_extensions().items()
    return frozenset(suffix for suffix, form in registered if _decodes(form))


SUFFIXES = _suffixes()
"""Suffixes of the files that Pillow can decode here, in lower case, with their dot."""

FORMATS = tuple(form for form in Image.OPEN if form not in _PROGRAMS)
"""What is read, by Pillow's names, whatever a file's suffix says."""
