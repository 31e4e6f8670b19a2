"""The pixels of an encoded photo: NumPy and Pillow, nothing else is needed.

Indexing, teaching and an exported student on a device must see the same pixels, so all of them call
this package, and it knows nothing of them.
"""

from tintem_pixels.crop import centre_crop, load_pixels, load_square
from tintem_pixels.decode import Photo, PixelError, decode, decoded, decoded_pixels
from tintem_pixels.formats import SUFFIXES

__all__ = [
    "SUFFIXES",
    "Photo",
    "PixelError",
    "centre_crop",
    "decode",
    "decoded",
    "decoded_pixels",
    "load_pixels",
    "load_square",
]
