"""Sources that were made to do harm: nothing runs, nothing hangs, and memory stays bounded."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from storage.errors import SourceError, StorageError
from storage.images import SourceConfig, build_manifest
from tests.photos import encoded, photo
from tintem_pixels import PixelError, decode, decoded
from tintem_pixels.memory import MOST_BYTES, ROOM

pytestmark = pytest.mark.timeout(120)


def source(uri: object, **settings) -> SourceConfig:
    return SourceConfig(name="hostile", uri=str(uri), max_unreadable_share=1, **settings)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and ends."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk


def tiff(*tags: tuple[int, int, int, int]) -> bytes:
    """A TIFF of these tags (number, type, count, value) and no pixels."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def zipped(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", content)
    return packed.getvalue()


LYING = {
    "a PNG of four gigapixels": png_header(65_535, 65_535),
    "a PNG as wide as can be": png_header(2**31 - 1, 1),
    "a PNG without an area": png_header(0, 0),
    "a BMP of four gigapixels": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 65_535,
                                                    65_535, 1, 24, 0, 0, 0, 0, 0, 0),
    "a GIF of four gigapixels": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0),
    "a JPEG of four gigapixels": b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03"
    b"\x01\x11\x00\x02\x11\x00\x03\x11\x00\xff\xd9",
    "a PPM of four gigapixels": b"P6 65535 65535 255\n",
    "a TIFF of four gigapixels": tiff((256, 4, 1, 65_535), (257, 4, 1, 65_535), (258, 3, 1, 8),
                                      (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 2**32 - 1)),
    "a TIFF with a tag of four gigabytes": tiff((256, 4, 1, 9), (257, 4, 1, 9),
                                                (270, 2, 2**32 - 1, 8)),
    "a TIFF whose directories are a circle": b"II*\0" + struct.pack("<IHI", 8, 0, 8),
    "a zip bomb": zipped(bytes(50_000_000)),
    "an SVG with entities": b'<!DOCTYPE x [<!ENTITY a "aaaa">]><svg>&a;&a;</svg>',
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(MARKER) (w) file\n",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_files_that_lie_about_themselves_are_set_aside(tmp_path, suffix):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, data in enumerate(LYING.values()):
        (folder / f"lying-{number:02d}{suffix}").write_bytes(data)
    (folder / f"photo{suffix}").write_bytes(encoded(photo(0), "PNG"))
    for check in ("decode", "header"):
        manifest = build_manifest(source(folder, check=check))
        assert f"photo{suffix}" in manifest.table["uri"].to_list()
        assert manifest.quarantine["reason"].str.contains("\n").any() is False
        if check == "decode":
            assert len(manifest.quarantine) == len(LYING)


def test_pipes_devices_links_and_endless_files_are_left_alone(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        photo(i).save(folder / f"photo-{i}.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    (folder / "nowhere.png").symlink_to(folder / "none.png")
    (folder / "itself.png").symlink_to(folder / "itself.png")
    (folder / "circle").symlink_to(folder)
    with (folder / "sparse.png").open("wb") as stream:
        stream.truncate(2**40)
    manifest = build_manifest(source(folder))
    assert len(manifest.table) == 3
    assert manifest.quarantine.is_empty()
    assert manifest.skipped == {"larger than 1 GiB": 1}


def test_a_table_that_names_pipes_devices_and_files_of_the_system_gives_none_of_them(tmp_path):
    photo(0).save(tmp_path / "photo.png")
    os.mkfifo(tmp_path / "pipe.png")
    with (tmp_path / "sparse.png").open("wb") as stream:
        stream.truncate(2**40)
    named = ["photo.png", "pipe.png", "sparse.png", "/dev/zero", "file:///etc/passwd",
             "../../../../../../../etc/passwd", "file:///dev/zero", "/proc/self/mem", "/", ".",
             "\0", "photo.png/../pipe.png"]  # fmt: skip
    pl.DataFrame({"uri": named}).write_parquet(tmp_path / "table.parquet")
    manifest = build_manifest(source(tmp_path / "table.parquet"))
    assert manifest.table["uri"].to_list() == ["photo.png"]
    assert set(manifest.quarantine["uri"]) == {*named} - {"photo.png", "sparse.png"}
    assert manifest.skipped == {"larger than 1 GiB": 1}
    assert "root:" not in str(manifest.quarantine.to_dicts())


@pytest.mark.parametrize(
    "column",
    [
        pl.Series([1, 2, 3]),
        pl.Series([1.5, None, float("nan")]),
        pl.Series([["a.png"], ["b.png"], []]),
        pl.Series([{"path": "a.png"}] * 3),
        pl.Series([b"a", b"b", b"\xff"]),
        pl.Series([None, None, None]),
        pl.Series([[[["a"]]]] * 3),
        pl.Series([True, False, True]),
        pl.Series(["a"] * 3, dtype=pl.Categorical),
        pl.Series(["1"] * 3).str.to_decimal(scale=2),
    ],
    ids=lambda column: str(column.dtype),
)
@pytest.mark.parametrize("name", ["uri", "image", "label", "split"])
@pytest.mark.parametrize("first", [{"uri": "photo.png"}, {"image": encoded(photo(0), "PNG")}])
def test_columns_of_any_type_are_read_or_refused_in_a_sentence(tmp_path, column, name, first):
    photo(0).save(tmp_path / "photo.png")
    table = pl.DataFrame([{**first, "label": "a"}] * 3).with_columns(column.alias(name))
    for glob in ("table.parquet", "*.parquet"):
        table.write_parquet(tmp_path / "table.parquet")
        try:
            build_manifest(source(tmp_path / glob))
        except StorageError as error:
            assert "\n" not in str(error)


def test_a_tar_that_names_places_outside_of_it_gives_its_photos_alone(tmp_path):
    path = tmp_path / "shard.tar"
    data = encoded(photo(0), "PNG")
    with tarfile.open(path, "w") as tar:

        def add(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            member.size = len(data) if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(data) if member.size else None)

        add("photo.png")
        add("/etc/absolute.png")
        add("../../outside.png")
        add("link.png", tarfile.SYMTYPE, "/etc/passwd")
        add("hard.png", tarfile.LNKTYPE, "/etc/passwd")
        add("device.png", tarfile.CHRTYPE)
        add("pipe.png", tarfile.FIFOTYPE)
    manifest = build_manifest(source(path))
    assert manifest.table["bytes"].to_list() == [len(data)]
    # The other name of the same photo.
    assert len(manifest.duplicates) == 1
    assert manifest.skipped == {"hidden": 1, "links or sparse files in a tar": 4}
    assert not Path("/etc/absolute.png").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shard.tar"]


@pytest.mark.parametrize("size", [2**33 - 1, 2**31, 600])
@pytest.mark.parametrize("name", ["photo.png", "photo.cls", "photo.json"])
def test_a_tar_whose_members_lie_about_their_size_is_refused(tmp_path, name, size):
    member = tarfile.TarInfo(name)
    member.size = size
    (tmp_path / "shard.tar").write_bytes(member.tobuf() + bytes(512))
    with pytest.raises(SourceError, match="is not a readable tar") as error:
        build_manifest(source(tmp_path / "shard.tar"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tar", "parquet", "csv", "tsv", "arrow"])
def test_a_pickle_under_any_name_is_never_unpickled(tmp_path, suffix):
    marker = tmp_path / "ran"
    folder = tmp_path / "data"
    folder.mkdir()
    place = folder / f"payload.{suffix}"
    place.write_bytes(pickle.dumps(Payload(marker)))
    photo(0).save(folder / "photo.png")
    for uri in (folder, place, folder / f"*.{suffix}"):
        try:
            build_manifest(source(uri))
        except StorageError as error:
            assert "\n" not in str(error)
    assert not marker.exists()


def bomb(mode: str, side: int, form: str) -> bytes:
    """Some kilobytes that are an image of many megapixels."""
    packed = io.BytesIO()
    Image.new(mode, (side, side)).save(packed, form)
    return packed.getvalue()


def test_a_photo_that_would_not_fit_in_memory_is_refused_before_it_is_decoded():
    data = bomb("LA", 10_500, "PNG")
    assert len(data) < 10**6
    with pytest.raises(PixelError, match="it would take 1,102 MB of memory to decode, and at most"):
        decode(data)
    with pytest.raises(PixelError, match="it would take 1,102 MB"), decoded(data):
        pass


def test_large_photos_wait_for_each_other_and_small_ones_do_not():
    small, large = bomb("RGB", 64, "PNG"), bomb("RGB", 2200, "PNG")
    entered, done = threading.Event(), threading.Event()

    def look() -> None:
        with decoded(large):
            entered.set()
        done.set()

    with ROOM.hold(MOST_BYTES * 64):
        waiting = threading.Thread(target=look)
        waiting.start()
        with decoded(small) as found:
            assert found.image.size == (64, 64)
        assert not entered.wait(0.3)
    assert done.wait(20)
    waiting.join()


_MEASURE = """
import resource, sys
from storage.images import SourceConfig, build_manifest
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
uri, small = sys.argv[1:]
build_manifest(SourceConfig(name="small", uri=small))
before = peak()
found = build_manifest(SourceConfig(name="bombs", uri=uri, max_unreadable_share=1))
print(peak() - before, len(found.table), len(found.quarantine), len(found.duplicates))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_folder_of_bombs_takes_little_more_memory_than_one_of_them(tmp_path):
    folder, small = tmp_path / "bombs", tmp_path / "small"
    for place in (folder, small):
        place.mkdir()
    photo(0).save(small / "photo.png")
    for form, mode in (("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "I;16"), ("TIFF", "F")):
        data = bomb(mode, 6_000, form)
        for number in range(2):
            # Other bytes, so that each is a photo of its own.
            (folder / f"{mode.replace(';', '')}-{number}.png").write_bytes(data + bytes([number]))
    for number in range(2):
        (folder / f"huge-{number}.png").write_bytes(bomb("L", 13_300, "PNG") + bytes([number]))
    command = [sys.executable, "-c", _MEASURE, str(folder), str(small)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr
    grown, *counts = map(int, done.stdout.split())
    assert sum(counts) == 10
    # Decoded beside each other they would take eight.
    assert grown < 2**30


def test_a_parquet_that_repeats_one_photo_a_million_times_is_read_in_blocks(tmp_path):
    data = os.urandom(200_000)
    pl.DataFrame({"image": [data] * 4_000}).write_parquet(tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 10**6
    command = [sys.executable, "-c", _MEASURE, str(tmp_path / "bomb.parquet"), str(tmp_path / "s")]
    (tmp_path / "s").mkdir()
    photo(0).save(tmp_path / "s" / "photo.png")
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    grown, *_ = map(int, done.stdout.split())
    assert grown < 2**29
