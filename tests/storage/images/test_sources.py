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


def notes_of(place, name, *columns, **options):
    """What is written beside the images, by their uris; the first file's too."""
    reader = open_reader(source(f"{place.url}/{name}", **options))
    found = reader.notes(columns)
    assert found.columns == ["uri", *columns]
    assert set(found["uri"]) == set(reader.entries()["uri"])
    assert found.head(1).equals(reader.notes(columns, 1).head(1))
    return {uri: tuple(rest) for uri, *rest in found.iter_rows()}


def test_a_table_says_what_is_written_beside_its_paths(place, image):
    for i in range(4):
        place.write(f"{i}.jpg", image(i))
    rows = [
        "0.jpg, Alpha 7 ,1",
        "1.jpg,,2",
        "2.jpg,D750,nan",
        "2.jpg,D750,3",
        "3.jpg,A,4",
        "3.jpg,B,4",
    ]
    place.write("list.csv", "\n".join(["file,Camera,site", *rows]).encode())
    wanted = {"0.jpg": ("Alpha 7", "1"), "1.jpg": (None, "2"), "2.jpg": ("D750", "3")}
    assert notes_of(place, "list.csv", "camera", "site") == {**wanted, "3.jpg": (None, "4")}
    buffer = io.BytesIO()
    pl.DataFrame({"file": ["0.jpg", "1.jpg"], "site": [1.0, 2.5]}).write_parquet(buffer)
    place.write("list.parquet", buffer.getvalue())
    assert notes_of(place, "list.parquet", "site") == {"0.jpg": ("1",), "1.jpg": ("2.5",)}
    with pytest.raises(SourceError, match="no column 'camra'; its columns are file, Camera, site"):
        open_reader(source(f"{place.url}/list.csv")).notes(["camra"])


def test_parquet_with_images_says_what_is_written_beside_them(place, image):
    named = parquet([image(0), image(1)], names=["cat", "dog"], label=[1, -1], night=[True, None])
    place.write("x/0.parquet", named)
    place.write("x/1.parquet", parquet([image(2)], label=[0], night=[False], names=["cat", "dog"]))
    assert notes_of(place, "x/*.parquet", "label", "night", labels="none") == {
        "0.parquet#0": ("dog", "true"), "0.parquet#1": (None, None), "1.parquet#0": ("cat", "false")
    }  # fmt: skip
    reader = open_reader(source(f"{place.url}/x/*.parquet"))
    for column, told in (("site", "no column 'site'; its columns are"), ("image", "Struct.*Name")):
        with pytest.raises(SourceError, match=told):
            reader.notes([column])


def test_tar_shards_say_what_is_written_in_their_json(place, image):
    records = [{"label": "a", "site": 1, "sun": 0.5}, {"label": "b", "site": 2.0, "boxes": [1]}, {}]
    members = {}
    for i, record in enumerate(records):
        members |= {
            f"{i}.jpg": image(i),
            f"{i}.json": json.dumps(record).encode(),
            f"{i}.cls": b"7",
        }
    place.write("0.tar", tar({**members, "3.jpg": image(3)}))
    found = notes_of(place, "*.tar", "site", "sun", labels="none")
    assert list(found.values()) == [("1", "0.5"), ("2", None), (None, None), (None, None)]
    reader = open_reader(source(f"{place.url}/0.tar", labels="none"))
    with pytest.raises(
        SourceError, match=r"no 'boxes' in its \.json files; their fields are label, s"
    ):
        reader.notes(["boxes"])
    place.write("1.tar", tar({"a.jpg": image(4)}))
    with pytest.raises(SourceError, match=r"no 'site' in its \.json files; there are none"):
        open_reader(source(f"{place.url}/1.tar")).notes(["site"])


def test_a_folder_has_nothing_written_beside_its_images(place, image):
    place.write("0.jpg", image(0))
    with pytest.raises(SourceError, match=r"no columns, so none named 'site'\. List"):
        open_reader(source(place.url)).notes(["site"])


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


def uris_of(manifest):
    return [uri.partition("/")[2] for uri in manifest.table["uri"]]


def test_a_sample_is_named_up_to_the_first_dot_of_the_base_name(place, image):
    members = {}
    for i in range(4):
        members[f"a.b/c.d/{i}.jpg"] = image(i)
        members[f"a.b/c.d/{i}.cls"] = str(i % 2).encode()
    members |= {"e.left.jpg": image(8), "e.right.cls": b"1", "./f.JPG": image(9), "f.cls": b"0"}
    place.write("x.tar", tar(members))
    manifest = build_manifest(source(f"{place.url}/x.tar"))
    labels = dict(zip(uris_of(manifest), manifest.table["label"], strict=True))
    wanted = {f"a.b/c.d/{i}.jpg": str(i % 2) for i in range(4)}
    assert labels == {**wanted, "e.left.jpg": "1", "./f.JPG": "0"}
    check_reads(manifest)


def test_two_images_or_two_labels_of_a_sample_are_refused_by_name(place, image):
    members = {}
    for i in range(3):
        members[f"cam1.2024-05-{i:02d}.jpg"] = image(i)
        members[f"cam1.2024-05-{i:02d}.cls"] = str(i % 3).encode()
    place.write("dots.tar", tar(members))
    with pytest.raises(SourceError, match=r"dots\.tar: the sample cam1 has 3 images, 2024-05-00"):
        build_manifest(source(f"{place.url}/dots.tar"))
    place.write("two.tar", tar({"a.jpg": image(0), "a.cls": b"1", "a.json": b'{"label": 2}'}))
    with pytest.raises(SourceError, match="the sample a has 2 labels, cls and json"):
        build_manifest(source(f"{place.url}/two.tar"))
    for column, label in (("cls", "1"), ("none", "1"), ("label", "2")):
        chosen = build_manifest(source(f"{place.url}/two.tar", label_column=column))
        assert chosen.classes == [label]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for data in (b"1", b"2"):
            info = tarfile.TarInfo("a.cls")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    place.write("again.tar", buffer.getvalue())
    with pytest.raises(SourceError, match=r"again\.tar holds a\.cls twice"):
        build_manifest(source(f"{place.url}/again.tar"))


def test_a_setting_chooses_among_the_images_of_a_sample(place, image):
    members = {}
    for i in range(5):
        members[f"{i}.jpg"] = image(i)
        members[f"{i}.seg.png"] = image(100 + i, form="PNG")
        members[f"{i}.cls"] = str(i % 2).encode()
    place.write("x.tar", tar(members))
    with pytest.raises(SourceError, match=r"sample 0 has 2 images, jpg and seg\.png.*image_column"):
        build_manifest(source(f"{place.url}/x.tar"))
    photos = build_manifest(source(f"{place.url}/x.tar", image_column="jpg"))
    assert uris_of(photos) == [f"{i}.jpg" for i in range(5)]
    assert "5 .seg.png" in photos.summary
    masks = build_manifest(source(f"{place.url}/x.tar", image_column="seg.png"))
    assert uris_of(masks) == [f"{i}.seg.png" for i in range(5)]
    assert masks.classes == ["0", "1"]
    with pytest.raises(SourceError, match=r"extension png .*Correct image_column"):
        build_manifest(source(f"{place.url}/x.tar", image_column="png"))
    with pytest.raises(SourceError, match=r"include \(\*\.jpg\) names files, not what is in them"):
        build_manifest(source(f"{place.url}/x.tar", include=("*.jpg",)))


def test_hidden_members_and_other_files_are_left_out_and_counted(place, image):
    members = {f"./{i}.jpg": image(i) for i in range(3)}
    members |= {f"./._{i}.jpg": b"Mac OS X" for i in range(3)}
    members |= {".thumbs/0.jpg": image(9), "__MACOSX/x.jpg": b"", "a/@eaDir/1.jpg": image(8)}
    members |= {"x.npy": b"", "README": b""}
    place.write("x.tar", tar(members))
    for name, data in members.items():
        place.write(f"folder/{name.removeprefix('./')}", data)
    for where in ("x.tar", "folder"):
        manifest = build_manifest(source(f"{place.url}/{where}"))
        assert manifest.table.height == 3
        assert manifest.skipped == {".npy": 1, "hidden": 6, "without a suffix": 1}


def test_archives_joined_end_to_end_are_read_whole(place, image):
    parts = [tar({f"{i}.jpg": image(10 * part + i) for i in range(3)}) for part in range(3)]
    place.write("x.tar", b"".join(parts))
    manifest = build_manifest(source(f"{place.url}/x.tar"))
    assert manifest.table.height == 9
    check_reads(manifest)
    place.write("x.tar", parts[0] + b"something else" * 100)
    with pytest.raises(SourceError, match="not a readable tar"):
        build_manifest(source(f"{place.url}/x.tar"))


def test_names_of_shards_and_members_may_hold_a_hash_sign(place, image):
    for name in ("a#b.tar", "c#1+2/d.tar", "#.tar"):
        place.write(name, tar({"x#1+2/y#.jpg": image(0), "z.jpg": image(1)}))
        manifest = build_manifest(source(f"{place.url}/{name}"))
        assert manifest.table.height == 2
        check_reads(manifest)


@pytest.mark.parametrize(
    ("name", "magic", "program"),
    [
        ("x.tar.gz", b"\x1f\x8b", "gunzip"),
        ("x.tgz", b"\x1f\x8b", "gunzip"),
        ("x.tar.zst", b"\x28\xb5\x2f\xfd", "unzstd"),
        ("x.tar.xz", b"\xfd7zXZ\0", "unxz"),
        ("x.tar.bz2", b"BZh9", "bunzip2"),
        ("x.tar", b"\x1f\x8b", "gunzip"),
        ("x.tar", b"\x28\xb5\x2f\xfd", "unzstd"),
    ],
)
def test_a_compressed_tar_is_refused_with_the_cure(place, name, magic, program):
    place.write(name, magic + bytes(2000))
    with pytest.raises(SourceError, match=f"is a compressed tar.*Unpack it with {program}"):
        build_manifest(source(f"{place.url}/{name}"))
    with pytest.raises(SourceError, match=rf"(?i)unpack it.* with {program}|/\*\.tar"):
        build_manifest(source(place.url))
