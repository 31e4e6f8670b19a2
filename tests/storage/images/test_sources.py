"""Every kind of source, on real files, in a folder and on S3."""

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

from storage.errors import MissingObjectError, SourceError
from storage.identity import content_key
from storage.images import SourceConfig, build_manifest, open_reader
from storage.root import Reading, open_root
from storage.testing import damaged, in_another_process


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path, monkeypatch):
    """Where the files of a source lie."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "s3":
        return open_root(request.getfixturevalue("s3_url"))
    return open_root(tmp_path / "files")


def source(uri, **options):
    return SourceConfig(name="demo", uri=uri, **options)


def content_keys(reader, uris):
    return [content_key(reader.read(uri)) for uri in uris]


def check_reads(manifest):
    uris, keys = manifest.table["uri"].to_list(), manifest.table["key"].to_list()
    assert in_another_process(content_keys, open_reader(manifest), uris) == keys
    assert build_manifest(manifest.source, previous=manifest).table.equals(manifest.table)


def parquet(pictures, *, struct=True, names=None, **columns):
    rows = [{"bytes": data, "path": f"{i}.jpg"} for i, data in enumerate(pictures)]
    table = pl.DataFrame({"image": rows if struct else pictures, **columns})
    feature = {"_type": "ClassLabel", "names": names} if names else {"_type": "Value"}
    described = {"info": {"features": {"label": feature}}}
    buffer = io.BytesIO()
    table.write_parquet(buffer, metadata={"huggingface": json.dumps(described)})
    return buffer.getvalue()


def tar(members, **options):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_image_folders(place, image):
    for i in range(6):
        place.write(f"{'ab'[i % 2]}/{i}.jpg", image(i))
    manifest = build_manifest(source(place.url))
    assert manifest.classes == ["a", "b"]
    check_reads(manifest)


def test_tables_of_relative_and_absolute_uris(place, image):
    for i in range(4):
        place.write(f"pictures/{i}.jpg", image(i))
    lines = ["image,label", "pictures/0.jpg,x", "pictures/1.jpg,y"]
    lines += [f"{place.url}/pictures/2.jpg,x", f"{place.url}/pictures/3.jpg,"]
    place.write("list.csv", "\n".join(lines).encode())
    manifest = build_manifest(source(f"{place.url}/list.csv"))
    assert (manifest.table.height, manifest.classes) == (4, ["x", "y"])
    assert manifest.table["label"].null_count() == 1
    check_reads(manifest)


def test_hugging_face_parquet_keeps_class_names_and_splits(place, image):
    for split, first in (("train", 0), ("test", 150)):
        pictures = [image(i) for i in range(first, first + 150)]
        labels = [i % 2 for i in range(150)]
        data = parquet(pictures, names=["cat", "dog"], label=labels)
        place.write(f"data/{split}-00000-of-00001.parquet", data)
    manifest = build_manifest(source(f"{place.url}/data/*.parquet"))
    assert manifest.classes == ["cat", "dog"]
    assert len(manifest.keys("test")) == 150
    assert manifest.table["bytes"][0] == len(image(150))
    check_reads(manifest)
    with pytest.raises(MissingObjectError, match="no image bytes"):
        open_reader(manifest).read("test-00000-of-00001.parquet#150")


def test_parquet_with_plain_bytes_and_a_hole(place, image):
    data = parquet([image(0), None, image(1)], struct=False, split=["train", "train", "val"])
    place.write("x.parquet", data)
    manifest = build_manifest(source(f"{place.url}/x.parquet", max_unreadable_share=0.5))
    assert manifest.table["uri"].to_list() == ["x.parquet#0", "x.parquet#2"]
    assert manifest.table["split"].to_list() == ["train", "test"]
    assert manifest.quarantine["uri"].to_list() == ["x.parquet#1"]
    assert manifest.classes == []


def test_webdataset_shards(place, image):
    members = {}
    for i in range(6):
        members[f"part/{i:03d}.jpg"] = image(i)
        members[f"part/{i:03d}.cls"] = str(i % 3).encode()
    place.write("shard-000.tar", tar(members))
    more = {"a.png": image(9, form="PNG"), "a.json": b'{"label": 7, "kind": "k"}'}
    place.write("shard-001.tar", tar(more))
    manifest = build_manifest(source(f"{place.url}/*.tar"))
    assert (manifest.table.height, manifest.classes) == (7, ["0", "1", "2", "7"])
    check_reads(manifest)
    by_kind = build_manifest(source(f"{place.url}/shard-001.tar", label_column="kind"))
    assert by_kind.classes == ["k"]
    assert build_manifest(source(f"{place.url}/*.tar", labels="none")).classes == []


def test_names_with_wildcards_in_them_are_names_first(place, image):
    base = f"{place.url}/photos [2024]"
    for i in range(4):
        place.write(f"photos [2024]/folder/{i}.jpg", image(i))
        place.write(f"photos [2024]/shard-{i}.tar", tar({f"{i}.jpg": image(i)}))
    place.write("photos [2024]/a?[1].tar", tar({"9.jpg": image(9)}))
    place.write("photos [2024]/b[1].parquet", parquet([image(5)]))
    place.write("photos [2024]/c[1].csv", b"file\nfolder/0.jpg\n")
    wanted = {"": 4, "/folder": 4, "/shard-*.tar": 4, "/shard-[01].tar": 2, "/a?[1].tar": 1}
    wanted |= {"/b[1].parquet": 1, "/c[1].csv": 1}
    for path, count in wanted.items():
        manifest = build_manifest(source(base + path))
        assert manifest.table.height == count, path
        check_reads(manifest)


def test_files_of_which_only_some_are_splits_are_refused(place, image):
    for i, name in enumerate(("train-0", "test-0", "unlabeled-0")):
        place.write(f"{name}.tar", tar({"x.jpg": image(i)}))
        place.write(f"{name}.parquet", parquet([image(i)], split=["extra"]))
    with pytest.raises(SourceError, match=r"test-0\.tar is named after a split, unlabeled-0\.tar"):
        build_manifest(source(f"{place.url}/*.tar"))
    some = source(f"{place.url}/*.tar", include=("train*", "test*"))
    assert len(build_manifest(some).keys("test")) == 1
    with pytest.raises(SourceError, match="splits that are not known: 'extra'"):
        build_manifest(source(f"{place.url}/train-0.parquet"))


def test_a_tar_that_ends_early_or_has_a_damaged_header_is_refused(place, image):
    whole = tar({f"{i}.jpg": image(i) for i in range(8)})
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        fourth = archive.getmembers()[4].offset
    flipped = bytearray(whole)
    flipped[fourth + 100] ^= 1
    for harmed in (whole[:fourth], bytes(flipped)):
        place.write("shard.tar", harmed)
        where = rf"/shard\.tar is not a readable tar \(.*byte {fourth}\)"
        with pytest.raises(SourceError, match=where):
            build_manifest(source(f"{place.url}/*.tar"))
    for sound in (whole.rstrip(b"\0") + bytes(1024), whole + whole):
        place.write("shard.tar", sound)
        assert build_manifest(source(f"{place.url}/*.tar")).table.height == 8


def test_a_tar_whose_names_are_no_utf8_is_read(place, image):
    place.write(
        "x.tar",
        tar(
            {"café.jpg": image(0), "café.cls": b"7"}, format=tarfile.GNU_FORMAT, encoding="latin-1"
        ),
    )
    manifest = build_manifest(source(f"{place.url}/x.tar"))
    assert manifest.table["label"].to_list() == ["7"]
    check_reads(manifest)


def test_one_damaged_parquet_of_many_is_told_in_a_sentence(place, image):
    sound = parquet([image(i) for i in range(3)])
    place.write("0.parquet", sound)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    for harmed in (pointer, sound[:-100], b"", bytes(200) + sound[200:]):
        place.write("1.parquet", harmed)
        with pytest.raises(SourceError, match=r"/1\.parquet is no readable Parquet") as told:
            build_manifest(source(f"{place.url}/*.parquet"))
        assert "\n" not in str(told.value)


def test_images_in_parquet_are_read_in_any_order_within_bounded_memory(place, image, monkeypatch):
    monkeypatch.setattr("storage.images.parquet._BLOCK_BYTES", 3 * len(image(0)))
    monkeypatch.setattr("storage.images.parquet._KEPT_BYTES", 20 * len(image(0)))
    pictures = {}
    for file in range(2):
        some = [image(100 * file + i) for i in range(100)]
        place.write(f"{file}.parquet", parquet(some))
        pictures |= {f"{file}.parquet#{row}": data for row, data in enumerate(some)}
    reader = open_reader(source(f"{place.url}/*.parquet"))
    uris = list(pictures)
    for order in (uris, uris[::-1], sorted(uris, key=hash), uris[::7]):
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(reader.read, order)) == [pictures[uri] for uri in order]
        kept = sum(images.estimated_size() for images in reader._blocks._kept.values())
        assert kept <= 20 * len(image(0))


def test_a_remote_parquet_is_fetched_once_by_all_readers(s3_url, image, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root, fetched = open_root(s3_url), []
    for file in range(3):
        root.write(f"{file}.parquet", parquet([image(10 * file + i) for i in range(10)]))
    read = type(root).read
    monkeypatch.setattr(
        type(root), "read", lambda self, path: fetched.append(path) or read(self, path)
    )
    wanted = source(f"{s3_url}/*.parquet")
    uris = [f"{file}.parquet#{row}" for row in range(10) for file in range(3)]
    for _ in range(2):
        assert open_reader(wanted).read(uris[4]) == image(11)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(open_reader(wanted).read, uris))
    assert sorted(fetched) == ["0.parquet", "1.parquet", "2.parquet"]
    root.write("1.parquet", parquet([image(99)]))
    assert open_reader(wanted).read("1.parquet#0") == image(99)


def test_a_remote_parquet_is_unpacked_into_the_folder_of_copies(
    s3_url, image, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_root(s3_url).write("x.parquet", parquet([image(1)]))
    wanted, reading = source(f"{s3_url}/x.parquet"), Reading(copies_folder=str(tmp_path / "mine"))
    build_manifest(wanted, reading=reading)
    assert open_reader(wanted, reading).read("x.parquet#0") == image(1)
    assert len(list((tmp_path / "mine").glob("*.shard"))) == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("byte", [None, 0, 3, 19, 27, 700])
def test_a_copy_of_a_remote_parquet_that_is_dropped_or_damaged_is_fetched_again(
    s3_url, image, tmp_path, monkeypatch, byte
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    open_root(s3_url).write("x.parquet", parquet([image(0), image(1)]))
    reader = open_reader(source(f"{s3_url}/x.parquet"))
    assert reader.read("x.parquet#1") == image(1)
    (copy,) = (tmp_path / "cache").rglob("*.shard")
    if byte is None:
        copy.unlink()
    else:
        copy.write_bytes(damaged(copy.read_bytes(), byte))
        reader = open_reader(reader.source)
    assert reader.read("x.parquet#1") == image(1)


def test_unusable_files_say_what_and_where(place, image):
    place.write("bad.parquet", b"no parquet")
    with pytest.raises(SourceError, match=r"bad\.parquet is no readable Parquet"):
        build_manifest(source(f"{place.url}/bad.parquet"))
    place.write("bad.tar", b"no tar" * 200)
    with pytest.raises(SourceError, match=r"bad\.tar is not a readable tar"):
        build_manifest(source(f"{place.url}/bad.tar"))
    place.write("empty.tar", tar({"a.txt": b"x"}))
    with pytest.raises(SourceError, match="holds no images"):
        build_manifest(source(f"{place.url}/empty.tar"))
    place.write("ok.parquet", parquet([image(0)], text=["x"]))
    with pytest.raises(SourceError, match="'text' holds no image bytes"):
        build_manifest(source(f"{place.url}/ok.parquet", image_column="text"))
    with pytest.raises(SourceError, match=r"names no \.tar file"):
        build_manifest(source(f"{place.url}/none-*.tar"))
    with pytest.raises(SourceError, match=r"write .*/\*\.parquet"):
        build_manifest(source(place.url))
    with pytest.raises(SourceError, match="must end in"):
        build_manifest(source(f"{place.url}/*.jpg"))
