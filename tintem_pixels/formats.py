"""Which files Pillow can decode here, by suffix."""

import importlib
import importlib.util

from PIL import EpsImagePlugin, Image, ImageFile, features

# Formats whose decoder is a library that Pillow may have been built without.
_LIBRARIES = {"AVIF": "avif", "JPEG": "jpg", "JPEG2000": "jpg_2000", "MPO": "jpg", "PNG": "zlib",
              "WEBP": "webp"}  # fmt: skip
# Pillow reads the headers of these, and no pixels.
_HEADERS_ONLY = {"IPTC", "MPEG"}
# Saved under their own suffix, opened as JPEG.
_OPENED_AS = {"MPO": "JPEG"}


def _register_heif() -> None:
    """Teach Pillow HEIC where pillow-heif is installed."""
    if importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()


def _decodes(form: str) -> bool:
    opener = Image.OPEN.get(_OPENED_AS.get(form, form))
    if opener is None or form in _HEADERS_ONLY:
        return False
    if isinstance(opener[0], type) and issubclass(opener[0], ImageFile.StubImageFile):
        return False
    if form in _LIBRARIES:
        return features.check(_LIBRARIES[form]) is True
    return form != "EPS" or bool(EpsImagePlugin.has_ghostscript())


def _suffixes() -> frozenset[str]:
    _register_heif()
    Image.init()
    registered = Image.registered_extensions().items()
    return frozenset(suffix for suffix, form in registered if _decodes(form))


SUFFIXES = _suffixes()
"""Suffixes of the files that Pillow can decode here, in lower case, with their dot."""
