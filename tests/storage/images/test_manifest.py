import contextlib
import io
import os
import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from PIL import Image

from storage.errors import CorruptRecordError, MissingObjectError, SourceError
from storage.identity import content_key
from storage.images import Manifest, SourceConfig, build_manifest, is_image, open_reader
from storage.images.index import _seen
from storage.records import seal, unseal
from storage.testing import damaged


@pytest.fixture
def folder(tmp_path, image):
    """Twelve images in two class folders."""
    base = tmp_path / "images"
    for i in range(12):
        place = base / ("cat" if i % 3 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i:02d}.jpg").write_bytes(image(i))
    return base


def source(uri, **options):
    return SourceConfig(name="demo", uri=str(uri), **options)


def tables_of(root, name):
    """The file of each table that a stored manifest's record names."""
    path = f"manifests/{name}.json"
    return {part: fact["file"] for part, fact in unseal(root.read(path), path)["tables"].items()}


def test_class_folders_give_labels_and_content_gives_keys(folder, image):
    manifest = build_manifest(source(folder))
    assert manifest.classes == ["cat", "dog"]
    assert manifest.table.height == 12
    row = manifest.table.filter(pl.col("uri") == "dog/03.jpg").to_dicts()[0]
    assert row["key"] == content_key(image(3))
    assert (row["width"], row["height"], row["label"]) == (20, 12, "dog")
    assert row["bytes"] == len(image(3))
    assert open_reader(manifest).read("dog/03.jpg") == image(3)
    assert manifest.table["row"].to_list() == list(range(12))


def test_label_free_is_the_normal_case(folder, tmp_path, image):
    assert build_manifest(source(folder, labels="none")).classes == []
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "a.png").write_bytes(image(0, form="PNG"))
    assert build_manifest(source(flat)).classes == []
    with pytest.raises(SourceError, match=r"outside class folders, a\.png"):
        build_manifest(source(flat, labels="folders"))


def test_split_folders_are_splits_not_classes(folder, tmp_path, image):
    base = tmp_path / "split"
    for name in ("train", "val"):
        shutil.copytree(folder, base / name)
    (base / "val/cat/01.jpg").write_bytes(image(99))
    manifest = build_manifest(source(base))
    assert manifest.classes == ["cat", "dog"]
    assert manifest.select("test")["uri"].to_list() == ["val/cat/01.jpg"]
    assert manifest.duplicates.height == 11


def test_the_drawn_split_depends_on_content_only(folder, image):
    before = build_manifest(source(folder, test_share=0.5))
    for i in range(20, 40):
        (folder / "cat" / f"new{i}.jpg").write_bytes(image(i))
    shutil.move(folder / "cat" / "01.jpg", folder / "dog" / "renamed.jpg")
    after = build_manifest(source(folder, test_share=0.5))
    joined = before.table.join(after.table, on="key", suffix="_after")
    assert joined.height == 12
    assert joined["split"].to_list() == joined["split_after"].to_list()
    assert 0 < len(after.keys("test")) < 32


def test_the_same_content_appears_once(folder):
    shutil.copy(folder / "cat/01.jpg", folder / "dog/copy.jpg")
    manifest = build_manifest(source(folder))
    assert manifest.table.height == 12
    assert manifest.duplicates["uri"].to_list() == ["dog/copy.jpg"]


def test_the_same_pixels_in_other_files_appear_once_and_never_on_both_sides(tmp_path):
    for i in range(60):
        grey = (np.random.default_rng(i).integers(0, 4, (8, 8)) * 60).astype(np.uint8)
        picture = Image.fromarray(grey)
        picture.save(tmp_path / f"{i}.png")
        picture.save(tmp_path / f"{i}-copy.png", compress_level=1)
        picture.convert("RGB").save(tmp_path / f"{i}.bmp")
        picture.transpose(Image.Transpose.ROTATE_180).save(tmp_path / f"{i}-turned.png")
    manifest = build_manifest(source(tmp_path, test_share=0.5))
    assert (manifest.table.height, manifest.duplicates.height) == (120, 120)
    assert manifest.table["pixels"].n_unique() == 120
    assert "120 other files of the same pixels" in manifest.summary
    # Which of them stays follows from content, not from names.
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / f"{path.name[::-1]}{path.suffix}")
    assert set(build_manifest(manifest.source).keys()) == set(manifest.keys())
    quick = build_manifest(source(tmp_path, check="header"))
    assert quick.table.height > 120
    assert build_manifest(manifest.source, previous=quick).table.height == 120


def test_a_photo_whose_scale_differs_from_former_releases_has_another_key(tmp_path, image):
    values = np.arange(64, dtype=np.uint16).reshape(8, 8)
    buffers = {}
    for name, frame in (("dark", values), ("full", values * 1040)):
        Image.fromarray(frame).save(tmp_path / f"{name}.png")
        buffers[name] = (tmp_path / f"{name}.png").read_bytes()
    (tmp_path / "plain.jpg").write_bytes(image(1))
    keys = {row["uri"]: row["key"] for row in build_manifest(source(tmp_path)).table.to_dicts()}
    assert keys["full.png"] == content_key(buffers["full"])
    assert keys["plain.jpg"] == content_key(image(1))
    assert keys["dark.png"] != content_key(buffers["dark"])
    assert is_image(buffers["dark"], keys["dark.png"], None)
    assert not is_image(buffers["dark"], keys["dark.png"], 12)
    quick = build_manifest(source(tmp_path, check="header"))
    assert set(quick.keys()) == set(keys.values())
    before = build_manifest(source(tmp_path))
    other = build_manifest(source(tmp_path, bits=12), previous=before)
    assert len(set(other.keys()) - set(keys.values())) == 2


def test_a_photo_without_finite_values_is_set_aside(folder):
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(folder / "cat/nan.tif")
    manifest = build_manifest(source(folder, max_unreadable_share=0.5))
    assert manifest.quarantine.to_dicts() == [
        {"uri": "cat/nan.tif", "reason": "it holds no finite value"}
    ]


def test_a_photo_with_two_labels_has_none_and_is_told(folder, image):
    shutil.copy(folder / "cat/01.jpg", folder / "dog/copy.jpg")
    with Image.open(folder / "cat/02.jpg") as picture:
        picture.save(folder / "dog/other-file.png")
    manifest = build_manifest(source(folder))
    assert manifest.table["label"].null_count() == manifest.conflicting == 2
    assert "10 labelled, 2 unlabelled (2 given two labels), 2 classes" in manifest.summary
    assert "1 copies, 1 other files of the same pixels" in manifest.summary


def test_a_file_replaced_by_one_of_the_same_size_and_date_is_read_again(folder, image):
    path = folder / "cat/01.jpg"
    data = image(1) + bytes(len(image(99)))
    path.write_bytes(data)
    before, status = build_manifest(source(folder)), path.stat()
    path.write_bytes((image(99) + bytes(len(data)))[: len(data)])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = build_manifest(source(folder), previous=before)
    assert content_key(path.read_bytes()) in set(after.keys())


def test_unreadable_images_are_set_aside_with_the_reason(folder, image):
    (folder / "cat/torn.jpg").write_bytes(image(50, (200, 200))[:-2000])
    (folder / "cat/text.png").write_text("no image")
    manifest = build_manifest(source(folder, max_unreadable_share=0.5))
    assert sorted(manifest.quarantine["uri"]) == ["cat/text.png", "cat/torn.jpg"]
    assert all(manifest.quarantine["reason"])
    assert manifest.table.height == 12
    with pytest.raises(SourceError, match=r"2 of 14 .*cat/text\.png"):
        build_manifest(source(folder))


def test_whatever_a_decoder_says_about_a_damaged_image_sets_it_aside(folder):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 12)).save(buffer, "TIFF")
    picture = bytearray(buffer.getvalue())
    # The sixth entry of the directory says where the pixels are; as text it means nothing.
    picture[8 + 2 + 5 * 12 + 2] = 2
    (folder / "cat" / "x.tif").write_bytes(picture)
    manifest = build_manifest(source(folder, max_unreadable_share=0.2))
    assert manifest.table.height == 12
    assert manifest.quarantine["uri"].to_list() == ["cat/x.tif"]
    assert "cannot be interpreted as an integer" in manifest.quarantine["reason"][0]


def test_unchanged_files_are_not_read_again(folder, image, monkeypatch):
    shutil.copy(folder / "cat/01.jpg", folder / "dog/copy.jpg")
    before = build_manifest(source(folder))
    (folder / "dog/03.jpg").write_bytes(image(99))
    (folder / "dog/new.jpg").write_bytes(image(98))
    read = []

    def note(_self, uri):
        read.append(uri)
        return (folder / uri).read_bytes()

    monkeypatch.setattr("storage.images.folder.FolderReader.read", note)
    after = build_manifest(source(folder), previous=before)
    assert sorted(read) == ["dog/03.jpg", "dog/new.jpg"]
    assert after.table.height == 13
    assert content_key(image(99)) in set(after.table["key"])


def test_a_few_images_are_chosen_by_key(folder):
    everything = build_manifest(source(folder))
    few = build_manifest(source(folder, max_images=5))
    assert sorted(few.keys()) == sorted(sorted(everything.keys(), key=lambda key: key[8:])[:5])


def test_the_few_that_are_kept_have_both_splits(tmp_path, image):
    for i in range(200):
        (tmp_path / f"{i}.png").write_bytes(image(i, (4, 4), "PNG"))
    few = build_manifest(source(tmp_path, max_images=40))
    assert len(few.keys("train")) > 20 > len(few.keys("test")) > 2
    more = build_manifest(source(tmp_path, max_images=80))
    assert set(few.keys("test")) < set(more.keys("test"))


def test_images_left_out_are_not_read_again(folder, root, monkeypatch):
    few = build_manifest(source(folder, max_images=5))
    assert few.left_out.height == 7
    few.save(root)
    previous = Manifest.latest(root, "demo")
    assert previous.left_out.equals(few.left_out)
    monkeypatch.setattr("storage.images.folder.FolderReader.read", None)
    assert build_manifest(source(folder, max_images=5), previous=previous).id == few.id
    assert build_manifest(source(folder, max_images=9), previous=previous).table.height == 9


def test_images_of_which_only_the_header_was_read_are_decoded_when_asked(folder, image):
    (folder / "cat/torn.jpg").write_bytes(image(50, (200, 200))[:-2000])
    quick = build_manifest(source(folder, check="header"))
    assert quick.table.height == 13
    careful = build_manifest(source(folder, max_unreadable_share=0.5), previous=quick)
    assert careful.quarantine["uri"].to_list() == ["cat/torn.jpg"]


def test_a_source_that_names_one_split_only_gets_the_other_drawn(folder, tmp_path, root):
    drawn = build_manifest(source(folder, test_share=0.5))
    assert not drawn.splits_drawn
    for name in ("train", "val"):
        shutil.copytree(folder, tmp_path / name / name)
        manifest = build_manifest(source(tmp_path / name, test_share=0.5))
        assert manifest.splits_drawn
        assert set(manifest.keys("test")) == set(drawn.keys("test"))
        assert Manifest.load(root, manifest.save(root)).splits_drawn
    asked = build_manifest(source(tmp_path / "train", test_share=0))
    assert not asked.splits_drawn
    assert len(asked.keys("train")) == 12


@pytest.mark.parametrize("part", ["", ".quarantine", ".duplicates", ".left-out"])
@pytest.mark.parametrize("harm", [damaged, None])
def test_a_damaged_manifest_is_refused_and_built_anew(folder, root, part, harm):
    manifest = build_manifest(source(folder, max_images=8))
    path = f"manifests/{tables_of(root, manifest.save(root))[part]}"
    data = root.read(path)
    root.write(path, harm(data, len(data) // 2)) if harm else root.delete(path)
    with pytest.raises(CorruptRecordError, match=r"tintem run"):
        Manifest.load(root, manifest.id)
    assert Manifest.latest(root, "demo") is None
    manifest.save(root)
    assert Manifest.load(root, manifest.id).table.equals(manifest.table)


def test_the_damaged_record_of_one_manifest_does_not_hide_another(folder, root):
    manifest = build_manifest(source(folder))
    path = f"manifests/{manifest.save(root)}.json"
    root.write("manifests/torn.json", root.read(path)[:40])
    assert Manifest.latest(root, "demo").id == manifest.id
    root.write(path, root.read(path).replace(b'"images": 12', b'"images": 13'))
    assert Manifest.latest(root, "demo") is None


def test_a_manifest_without_checksums_is_still_read(folder, root):
    manifest = build_manifest(source(folder))
    path = f"manifests/{manifest.save(root)}.json"
    record = unseal(root.read(path), path)
    for part, name in tables_of(root, manifest.id).items():
        if part != ".left-out":
            root.write(f"manifests/{manifest.id}{part}.parquet", root.read(f"manifests/{name}"))
        root.delete(f"manifests/{name}")
    for name in ("tables", "left_out", "splits_drawn"):
        del record[name]
    root.write(path, seal(record))
    assert Manifest.load(root, manifest.id).table.equals(manifest.table)
    manifest.save(root)
    assert len(root.list("manifests")) == 5


def test_files_whose_names_are_no_text_are_set_aside(folder, image):
    (folder / "cat" / os.fsdecode(b"\xe9.jpg")).write_bytes(image(70))
    (folder / "cat/gone.jpg").symlink_to(folder / "nowhere")
    manifest = build_manifest(source(folder, max_unreadable_share=0.5))
    assert manifest.table.height == 12
    assert manifest.quarantine["uri"].to_list() == [r"cat/\xe9.jpg"]
    assert "UTF-8" in manifest.quarantine["reason"][0]


def test_a_changed_image_is_noticed_however_a_table_spells_its_path(folder, image):
    (folder / "list.csv").write_text("file\n./cat/01.jpg\ndog//03.jpg\n")
    before = build_manifest(source(folder / "list.csv"))
    assert before.table["bytes"].to_list() == [len(image(1)), len(image(3))]
    (folder / "cat/01.jpg").write_bytes(image(71))
    after = build_manifest(source(folder / "list.csv"), previous=before)
    assert after.keys() == [content_key(image(71)), content_key(image(3))]


def test_an_image_of_unknown_size_and_date_is_read_again(folder):
    before = build_manifest(source(folder))
    zeros = before.table.with_columns(bytes=pl.lit(0, pl.Int64), modified=pl.lit(0, pl.Int64))
    assert _seen(before.source, replace(before, table=zeros)).is_empty()


def test_splits_that_are_not_known_are_refused(folder):
    table = folder / "list.csv"
    table.write_text("file,split\ncat/01.jpg,holdout\ncat/02.jpg,TRAIN \ndog/03.jpg,\n")
    with pytest.raises(SourceError, match=r"not known: 'holdout'\. Write train, training, test"):
        build_manifest(source(table))
    manifest = build_manifest(source(table, include=("*/02.jpg", "*/03.jpg")))
    assert manifest.select("train")["uri"].to_list()[0] == "cat/02.jpg"


def test_folders_of_which_only_some_are_splits_are_refused(folder, tmp_path, image):
    base = tmp_path / "base"
    for i, name in enumerate(("train", "test", "unlabeled")):
        shutil.copytree(folder, base / name)
        (base / name / "cat/01.jpg").write_bytes(image(80 + i))
    with pytest.raises(SourceError, match=r"splits \(test, train\), but also unlabeled: rename"):
        build_manifest(source(base, labels="folders"))
    some = build_manifest(source(base, include=("train/*", "test/*")))
    assert some.classes == ["cat", "dog"]
    shutil.rmtree(base / "test")
    with pytest.raises(SourceError, match="set labels to folders or none"):
        build_manifest(source(base))
    assert build_manifest(source(base, labels="folders")).classes == ["train", "unlabeled"]
    shutil.rmtree(base / "unlabeled")
    (base / "loose.jpg").write_bytes(image(90))
    with pytest.raises(SourceError, match=r"but also loose\.jpg"):
        build_manifest(source(base))


def test_progress_reaches_the_total(folder):
    seen = []
    build_manifest(source(folder), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)


def test_a_manifest_survives_storage(folder, root):
    manifest = build_manifest(source(folder))
    name = manifest.save(root)
    assert name.startswith("demo-")
    loaded = Manifest.load(root, name)
    assert loaded.table.equals(manifest.table)
    assert (loaded.id, loaded.source) == (manifest.id, manifest.source)
    assert Manifest.latest(root, "demo").id == name
    assert Manifest.latest(root, "other") is None


def test_the_latest_manifest_is_the_one_saved_last_also_within_a_second(folder, root):
    few, all_of_them = (build_manifest(source(folder, max_images=n)) for n in (5, 12))
    for manifest in (few, all_of_them, few, all_of_them):
        manifest.save(root)
        assert Manifest.latest(root, "demo").id == manifest.id


@pytest.mark.parametrize("changed", [False, True])
def test_an_interrupted_save_leaves_the_manifest_of_before(folder, root, changed, monkeypatch):
    before = after = build_manifest(source(folder))
    if changed:
        # The same images, and so the same id, but other files.
        shutil.copy(folder / "cat/01.jpg", folder / "cat/copy.jpg")
        after = build_manifest(source(folder), previous=before)
    assert after.id == before.id
    for calls in range(4 if changed else 2):
        before.save(root)
        left = iter(range(calls))

        def until_killed(call, left=left):
            def act(*args):
                if next(left, None) is None:
                    raise InterruptedError
                call(*args)

            return act

        with monkeypatch.context() as patch, contextlib.suppress(InterruptedError):
            patch.setattr(root, "write", until_killed(root.write))
            patch.setattr(root, "delete", until_killed(root.delete))
            after.save(root)
        found = Manifest.latest(root, "demo")
        assert found.table.equals(after.table)
        assert found.duplicates.height == (changed and calls >= 2)
    assert next(left, None) is None
    assert len(root.list("manifests")) == 5


def test_saving_what_is_stored_already_writes_no_table(folder, root):
    manifest = build_manifest(source(folder))
    manifest.save(root)
    before = root.facts("manifests")
    Manifest.latest(root, "demo").save(root)
    after = root.facts("manifests")
    assert after.keys() == before.keys()
    assert [p for p in before if before[p] != after[p]] == [f"manifests/{manifest.id}.json"]


def test_a_manifest_that_is_saved_anew_while_it_is_read_is_read_anew(folder, root, monkeypatch):
    before = build_manifest(source(folder))
    before.save(root)
    shutil.copy(folder / "cat/01.jpg", folder / "cat/copy.jpg")
    after = build_manifest(source(folder), previous=before)
    read, saved = type(root).read, []

    def read_slowly(self, path):
        data = read(self, path)
        if path.endswith(".json") and not saved:
            saved.append(after.save(root))
        return data

    monkeypatch.setattr(type(root), "read", read_slowly)
    assert Manifest.load(root, before.id).duplicates.height == 1


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_tables_of_uris(folder, kind):
    uris = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.jpg"))
    uris[0] = str(folder / uris[0])
    table = pl.DataFrame(
        {"path": uris, "label": [i % 2 for i in range(12)], "split": ["train"] * 9 + ["val"] * 3}
    )
    where = folder / f"list.{kind}"
    if kind == "parquet":
        table.write_parquet(where)
    else:
        table.write_csv(where, separator="\t" if kind == "tsv" else ",")
    manifest = build_manifest(source(where))
    assert manifest.classes == ["0", "1"]
    assert manifest.table.height == 12
    assert len(manifest.keys("test")) == 3
    reader = open_reader(manifest)
    assert all(
        content_key(reader.read(u)) == k for k, u in manifest.table.select("key", "uri").rows()
    )


def test_a_table_that_names_missing_files(folder, monkeypatch):
    monkeypatch.setattr("storage.images.table._LOOKUPS_AT_ONCE", 1)
    (folder / "list.csv").write_text("file\ncat/01.jpg\ngone.jpg\n")
    manifest = build_manifest(source(folder / "list.csv", max_unreadable_share=0.5))
    assert manifest.quarantine.to_dicts() == [{"uri": "gone.jpg", "reason": "the file is missing"}]
    with pytest.raises(MissingObjectError):
        open_reader(manifest).read("gone.jpg")


def test_sources_that_cannot_work_say_what_and_where(tmp_path, folder):
    with pytest.raises(SourceError, match="no folder"):
        build_manifest(source(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no images .*\.jpg"):
        build_manifest(source(tmp_path / "empty"))
    with pytest.raises(SourceError, match=r"match \*\.png"):
        build_manifest(source(folder, include=("*.png",)))
    with pytest.raises(SourceError, match="no file"):
        build_manifest(source(tmp_path / "list.csv"))
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match="its columns are a, b"):
        build_manifest(source(tmp_path / "odd.csv"))
    with pytest.raises(SourceError, match="no column 'c'"):
        build_manifest(source(tmp_path / "odd.csv", uri_column="a", label_column="c"))


def test_files_of_every_usual_suffix_are_read_and_others_counted_by_suffix(tmp_path, image):
    forms = {".jfif": "JPEG", ".jpe": "JPEG", ".mpo": "JPEG", ".avif": "AVIF", ".jp2": "JPEG2000",
             ".WEBP": "WEBP", ".Tif": "TIFF", ".pbm": "PPM"}  # fmt: skip
    for i, (suffix, form) in enumerate(forms.items()):
        (tmp_path / f"{i}{suffix}").write_bytes(image(i, form=form))
    for name in ("a.heic", "b.HEIC", "c.xmp", "README", ".hidden.jpg", "@eaDir/x.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image(50))
    manifest = build_manifest(source(tmp_path))
    assert manifest.table.height == len(forms)
    assert manifest.skipped == {".heic": 2, ".xmp": 1, "hidden": 2, "without a suffix": 1}
    told = "left out: 2 .heic, 1 .xmp, 2 hidden, 1 without a suffix"
    assert manifest.summary == f"8 photos of demo, without labels; {told}"
    few = build_manifest(source(tmp_path, include=("*.jp2",)))
    assert few.skipped["not in include"] == len(forms) - 1


def test_what_was_left_out_survives_storage(folder, root):
    (folder / "x.xmp").write_text("")
    shutil.copy(folder / "cat/01.jpg", folder / "dog/copy.jpg")
    manifest = build_manifest(source(folder))
    loaded = Manifest.load(root, manifest.save(root))
    assert loaded.summary == manifest.summary
    assert (loaded.skipped, loaded.conflicting) == ({".xmp": 1}, 1)


def test_a_folder_without_photos_says_what_it_holds(tmp_path):
    (tmp_path / "a.heif-sequence").write_text("")
    with pytest.raises(SourceError, match=r"found 1 \.heif-sequence\)"):
        build_manifest(source(tmp_path))
