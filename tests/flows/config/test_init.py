"""`tintem init`: what it finds in a source, and that the config it writes reads it."""

import io
import json
import tarfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.config.init import Written
from flows.config.init import write_config as init
from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.stages.index import index
from flows.stages.results import Indexed
from storage.errors import SourceError
from storage.root import Root, open_root
from tests.photos import encoded, photo

COUNT = 40
PHOTOS = [encoded(photo(i)) for i in range(COUNT)]


def _labels() -> list[str]:
    return ["cat" if i % 2 else "dog" for i in range(COUNT)]


def _splits() -> list[str]:
    return ["val" if i < 8 else "train" for i in range(COUNT)]


def _parquet(**columns: Any) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _folder(root: Root) -> str:
    for i, data in enumerate(PHOTOS):
        root.write(f"{i}.png", data)
    root.write("list.csv", b"a,b\n")
    return root.url


def _class_folders(root: Root) -> str:
    for i, data in enumerate(PHOTOS):
        root.write(f"{_splits()[i]}/{_labels()[i]}/{i}.png", data)
    return root.url


def _a_class_named_train(root: Root) -> str:
    for i, data in enumerate(PHOTOS):
        root.write(f"{'train' if i % 2 else 'car'}/{i}.png", data)
    return root.url


def _table(root: Root) -> str:
    lines = ["id,photo file,Category,set"]
    for i, data in enumerate(PHOTOS):
        root.write(f"pictures/{i}.png", data)
        lines.append(f"{i},pictures/{i}.png,{_labels()[i]},{_splits()[i]}")
    root.write("list.csv", "\n".join(lines).encode())
    return f"{root.url}/list.csv"


def _table_alone(root: Root) -> str:
    lines = ["path,label"]
    for i, data in enumerate(PHOTOS):
        open_root(f"{root.url}-pictures").write(f"{i}.png", data)
        lines.append(f"{root.url}-pictures/{i}.png,{i}")
    root.write("list.csv", "\n".join(lines).encode())
    return root.url


def _parquet_of_uris(root: Root) -> str:
    for i, data in enumerate(PHOTOS):
        open_root(f"{root.url}-pictures").write(f"{i}.png", data)
    paths = [f"{root.url}-pictures/{i}.png" for i in range(COUNT)]
    root.write("list.parquet", _parquet(file=paths, target=[i % 3 for i in range(COUNT)]))
    return root.url


def _parquet_of_images(root: Root) -> str:
    for split, part in (("train", slice(8, None)), ("test", slice(8))):
        rows = [{"bytes": data, "path": None} for data in PHOTOS[part]]
        names = _labels()[part]
        data = _parquet(picture=rows, fine_label=names, box=[[1.0, 2.0]] * len(rows))
        root.write(f"data/{split}-00000-of-00001.parquet", data)
    root.write("logo.png", PHOTOS[0])
    return root.url


def _tars(root: Root) -> str:
    members: dict[str, bytes] = {}
    for i, data in enumerate(PHOTOS):
        members |= {
            f"{i:03d}.png": data,
            f"{i:03d}.json": json.dumps({"width": 48, "class": _labels()[i]}).encode(),
        }
    root.write("shard-000.tar", _tar(members))
    return root.url


def _tars_with_cls(root: Root) -> str:
    for split, part in (("train", range(8, COUNT)), ("val", range(8))):
        members: dict[str, bytes] = {}
        for i in part:
            members |= {f"{i:03d}.png": PHOTOS[i], f"{i:03d}.cls": f"{i % 3}".encode()}
        root.write(f"{split}-0.tar", _tar(members))
    return root.url


Make = Callable[[Root], str]
# Layout; settings that are written beside name and uri; classes; test photos that are given.
LAYOUTS: dict[Make, tuple[str, dict[str, str], int, int | None]] = {
    _folder: ("a folder of photos", {}, 0, None),
    _class_folders: ("class folders below folders named after splits", {}, 2, 8),
    _a_class_named_train: ("class folders", {"labels": "folders"}, 2, None),
    _table: (
        "a table of paths",
        {"uri_column": "photo file", "label_column": "Category", "split_column": "set"},
        2,
        8,
    ),
    _table_alone: ("a table of paths", {}, COUNT, None),
    _parquet_of_uris: ("a table of paths", {"label_column": "target"}, 3, None),
    _parquet_of_images: (
        "Parquet with images inside",
        {"image_column": "picture", "label_column": "fine_label"},
        2,
        8,
    ),
    _tars: ("WebDataset tar files", {"label_column": "class"}, 2, None),
    _tars_with_cls: ("WebDataset tar files", {}, 3, 8),
}


def _without_support(config: RunConfig) -> RunConfig:
    """Leave out the drawn images, which take long and are the same for every layout."""
    return config.model_copy(
        update={"training": config.training.model_copy(update={"support": 0.0})}
    )


def _indexed(source: str, target: Path) -> tuple[Written, RunConfig, Indexed]:
    written = init(source, target)
    config = load_config(target)
    return written, config, index(_without_support(config), open_root(config.root))


@pytest.mark.parametrize("make", LAYOUTS, ids=lambda make: make.__name__.strip("_"))
def test_every_layout_is_recognised_and_its_config_reads_it(make: Make, tmp_path: Path) -> None:
    layout, settings, classes, test = LAYOUTS[make]
    source = make(open_root(tmp_path / "photos"))
    written, config, indexed = _indexed(source, tmp_path / "tintem.yaml")
    assert written.survey.layout == layout
    found = config.data.model_dump(exclude_unset=True, exclude={"name", "uri"})
    assert found == settings
    manifest = indexed.data.manifest
    assert written.survey.photos == manifest.table.height == COUNT
    assert set(written.survey.classes) == set(manifest.classes)
    assert len(manifest.classes) == classes
    assert bool(written.survey.splits) == (test is not None)
    assert test is None or len(indexed.data.keys("test")) == test


def test_what_was_found_is_told(tmp_path: Path) -> None:
    written = init(_class_folders(open_root(tmp_path / "photos")), tmp_path / "tintem.yaml")
    told = dict(written.lines())
    assert told["photos"] == "40, shorter side 40 px in the median"
    assert told["labels"].startswith("2 classes (cat, dog) from the folders")
    assert told["splits"].startswith("train and test")
    assert written.recipe.reason in told["recipe"]


def test_small_photos_get_small_inputs_that_the_models_allow(tmp_path: Path) -> None:
    for side, sizes in ((40, (112, 128)), (150, (154, 160)), (500, (224, 224))):
        folder = tmp_path / f"photos-{side}"
        folder.mkdir()
        photo(0, (side + 20, side)).save(folder / "one.jpg")
        target = tmp_path / f"{side}.yaml"
        written = init(folder, target)
        config = load_config(target)
        assert (config.teacher.image_size, config.student.image_size) == sizes
        assert ("inputs" in dict(written.lines())) == (side < 224)


def test_photos_in_a_bucket_are_found_with_their_labels(s3_url: str, tmp_path: Path) -> None:
    source = _class_folders(open_root(s3_url))
    written, _, indexed = _indexed(source, tmp_path / "tintem.yaml")
    assert written.survey.photos == COUNT
    assert indexed.data.manifest.classes == ["cat", "dog"]


def test_a_long_listing_of_a_bucket_is_cut_and_sees_every_split(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("storage.images.survey"), "_LOOKED_AT", 10)
    written = init(_class_folders(open_root(s3_url)), tmp_path / "tintem.yaml")
    assert 10 <= written.survey.photos < COUNT
    assert written.survey.splits == ("train", "test")
    told = written.lines()
    assert "or more" in dict(told)["photos"]
    assert any("not all photos were counted" in text for _, text in told)


def test_a_large_parquet_in_a_bucket_is_estimated_by_its_first_file(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    written = init(_parquet_of_images(open_root(s3_url)), tmp_path / "tintem.yaml")
    assert 30 < written.survey.photos < 50
    assert written.survey.splits == ("train", "test")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"holds no photos .*\.jpg.*found nothing.*give the folder"),
        ({"a.feather": b"", "b.feather": b""}, r"holds no photos .*found 2 \.feather"),
        ({"a.arrow": b""}, r"a\.arrow is no readable Arrow stream.*save the data set again"),
        ({"a.csv": b"x\n1\n", "b.csv": b"y\n1\n"}, r"2 tables \(a\.csv, b\.csv\).*give the one"),
        ({"a.csv": b"id,name\n1,x\n"}, r"its columns are id, name: add a column uri"),
        ({"a.parquet": _parquet(text=["x"], score=[1.0])}, r"its columns are text, score: add"),
        (
            {"a.parquet": _parquet(text=["x"]), "b.parquet": _parquet(text=["y"])},
            r"no column of image bytes; its columns are text",
        ),
        ({"a.csv": b"url\nhttps://host/one.jpg\n"}, r"photos are read from folders and from s3"),
        ({"a.csv": b"uri\nmissing.jpg\n"}, r"none of 1 photos.*paths relative to the table"),
        ({"a.jpg": b"no photo"}, r"none of 1 photos can be read.*a\.jpg"),
    ],
    ids=["empty", "other files", "arrow", "tables", "columns", "parquet", "parquets", "web",
         "missing", "broken"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_a_sentence(
    files: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with pytest.raises(SourceError, match=message) as told:
        init(folder, tmp_path / "tintem.yaml")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "tintem.yaml").exists()
