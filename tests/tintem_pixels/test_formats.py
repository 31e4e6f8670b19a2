"""Which files are looked at."""

import subprocess
import sys
from pathlib import Path

from PIL import features

from tests.photos import encoded, photo
from tintem_pixels import SUFFIXES, decode

USUAL = {
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tga", ".tif", ".tiff",
}  # fmt: skip


def test_suffixes_are_those_of_all_that_pillow_can_decode_here() -> None:
    assert USUAL < SUFFIXES
    for suffix, library in ((".avif", "avif"), (".webp", "webp"), (".jp2", "jpg_2000")):
        assert (suffix in SUFFIXES) == bool(features.check(library))
    # Of these, Pillow reads no pixels by itself.
    assert not SUFFIXES & {".h5", ".hdf", ".mpg", ".pdf", ".wmf", ".grib", ".bufr", ".txt"}


def test_each_of_the_usual_forms_is_decoded() -> None:
    for form in ("AVIF", "JPEG2000", "WEBP", "GIF", "TGA", "PPM", "BMP"):
        assert decode(encoded(photo(1), form)).image.size == photo(1).size


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path) -> None:
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import Image\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', lambda file, name: None, lambda head: False)\n"
        "    Image.register_extension('HEIF', '.heic')\n"
    )
    code = "from tintem_pixels import SUFFIXES; print('.heic' in SUFFIXES)"
    root = str(Path(__file__).parents[2])
    for places, wanted in (([root], "False"), ([root, str(tmp_path)], "True")):
        place = f"import sys; sys.path[:0] = {places!r}; "
        done = subprocess.run(
            [sys.executable, "-c", place + code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == wanted
