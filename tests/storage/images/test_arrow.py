"""Folders that `save_to_disk` of Hugging Face's datasets writes.

The files are written here as the library does: a stream of record batches with the features in the
schema's metadata, and a state that names them.
"""

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from storage.errors import MissingObjectError, SourceError
from storage.identity import content_key
from storage.images import SourceConfig, build_manifest, open_reader, survey
from storage.testing import in_another_process

NAMES = ["cat", "dog"]


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (12, 9), (number, 255 - number, 7 * number % 256)).save(buffer, "PNG")
    return buffer.getvalue()


def save(folder: Path, first: int, count: int, files: int = 1) -> None:
    """Write a data set of images and class labels, -1 where there is none."""
    folder.mkdir(parents=True)
    features = {
        "image": {"_type": "Image"},
        "label": {"names": NAMES, "_type": "ClassLabel"},
    }
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    schema = pa.schema({"image": kind, "label": pa.int64()}).with_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    names = [f"data-{i:05d}-of-{files:05d}.arrow" for i in range(files)]
    for number, name in enumerate(names):
        rows = range(first + number, first + count, files)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, schema) as out:
            for row in rows:
                image = {"bytes": picture(row), "path": f"{row}.png"}
                label = -1 if row % 5 == 4 else row % 2
                out.write_batch(pa.RecordBatch.from_pylist(
                    [{"image": image, "label": label}], schema=schema))  # fmt: skip
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def keys_of(reader, uris):
    return [content_key(reader.read(uri)) for uri in uris]


def test_a_dataset_keeps_its_class_names_and_leaves_caches_out(tmp_path: Path) -> None:
    save(tmp_path / "set", 0, 20, files=3)
    (tmp_path / "set/cache-1234.arrow").write_bytes((
        tmp_path / "set/data-00000-of-00003.arrow").read_bytes())  # fmt: skip
    manifest = build_manifest(SourceConfig(name="x", uri=str(tmp_path / "set")))
    table = manifest.table
    assert (table.height, manifest.classes) == (20, ["cat", "dog"])
    assert table["label"].null_count() == 4
    uris = table["uri"].to_list()
    assert in_another_process(keys_of, open_reader(manifest), uris) == table["key"].to_list()
    assert len(manifest.keys("test")) > 0
    with pytest.raises(MissingObjectError, match="no image bytes"):
        open_reader(manifest).read("data-00000-of-00003.arrow#99")


def test_what_is_written_beside_the_images_is_told_by_uri(tmp_path: Path) -> None:
    save(tmp_path / "set", 0, 6, files=2)
    reader = open_reader(SourceConfig(name="x", uri=str(tmp_path / "set"), labels="none"))
    found = reader.notes(["label"])
    assert found["uri"].to_list() == reader.entries()["uri"].to_list()
    # Rows 0, 2 and 4 are in the first file; the last of them has no class.
    assert found["label"].to_list() == ["cat", "cat", None, "dog", "dog", "dog"]
    assert reader.notes(["label"], 1).height == 3
    with pytest.raises(SourceError, match="no column 'site'; its columns are image, label"):
        reader.notes(["site"])


def test_the_splits_of_a_dictionary_are_those_of_the_source(tmp_path: Path) -> None:
    for split, first, count in (("train", 0, 30), ("validation", 40, 10)):
        save(tmp_path / "sets" / split, first, count)
    (tmp_path / "sets/dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    found = survey(str(tmp_path / "sets"), "x")
    assert found.layout == "a data set saved by Hugging Face's datasets"
    assert (found.photos, found.classes, set(found.splits)) == (
        40,
        ("cat", "dog"),
        {"train", "test"},
    )
    for uri in (str(tmp_path / "sets"), found.source.uri):
        manifest = build_manifest(SourceConfig(name="x", uri=uri))
        assert (len(manifest.keys("train")), len(manifest.keys("test"))) == (30, 10)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    save(tmp_path / "set", 0, 3)
    (tmp_path / "set/data-00000-of-00001.arrow").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="no readable Arrow stream"):
        build_manifest(SourceConfig(name="x", uri=str(tmp_path / "set")))
    with pytest.raises(SourceError, match="holds no image bytes"):
        save(tmp_path / "other", 0, 3)
        source = SourceConfig(name="x", uri=str(tmp_path / "other"), image_column="label")
        build_manifest(source)
