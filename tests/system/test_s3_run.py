"""A run whose photos and results lie in a bucket: killed, resumed, read through little disk."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.config.init import write_config as init
from flows.config.load import load_config
from flows.maintenance.status import open_existing
from flows.reporting.base import reporting_to
from flows.stages.pipeline import Pipeline
from storage.artifacts import read_file
from storage.cache import FeatureCache
from storage.errors import StorageInputError
from storage.root import Reading, Root, open_root
from storage.testing import damaged
from tests.photos import encoded, photo
from tests.runs import Notes, write_config
from tintem_core.errors import InputError

# Less than the training's embeddings, more than any of their shards.
_LITTLE = 12_000


@pytest.fixture
def remote(s3_url: str, settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A run on a bucket that holds its photos, too."""
    folder = Path(settings["data"]["uri"])
    bucket = s3_url.rsplit("/", 2)[0]
    photos = open_root(f"{bucket}/photos")
    for path in folder.rglob("*.png"):
        photos.write(path.relative_to(folder).as_posix(), path.read_bytes())
    return settings | {
        "root": s3_url,
        "data": {**settings["data"], "uri": f"{bucket}/photos"},
        "runtime": {
            **settings["runtime"], "copies_folder": "copies", "copies_gb": _LITTLE / 1e9
        },
    }  # fmt: skip


def test_images_in_a_remote_parquet_are_copied_where_the_config_says(
    remote: dict[str, Any], s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    buffer = io.BytesIO()
    pl.DataFrame({"image": [encoded(photo(i)) for i in range(40)]}).write_parquet(buffer)
    open_root(s3_url.rsplit("/", 2)[0]).write("photos.parquet", buffer.getvalue())
    remote["data"]["uri"] = f"{s3_url.rsplit('/', 2)[0]}/photos.parquet"
    remote["runtime"] |= {"copies_folder": str(tmp_path / "copies"), "copies_gb": 1}
    dataset = Pipeline(load_config(write_config(tmp_path, remote))).indexed.data
    assert dataset.reader.read(dataset.uris()[0])
    assert copied(tmp_path / "copies")
    assert not (tmp_path / "cache").exists()


def copied(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.shard"))


def test_a_run_in_a_bucket_gives_the_student_of_a_local_one(
    remote: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    remote["training"]["epochs"] = 1
    notes = Notes()
    with reporting_to(notes):
        there = Pipeline(load_config(write_config(tmp_path, remote)))
        assert there.trained
    assert 0 < copied(tmp_path / "copies") <= _LITTLE
    assert any("only 12.0 kB of copies may lie in" in note for note in notes.notes)
    here = Pipeline(load_config(write_config(tmp_path, settings, "local.yaml")))
    assert there.trained.id == here.trained.id
    weights = [
        read_file(p.root, "students", p.trained.id, "student.safetensors") for p in (there, here)
    ]
    assert weights[0] == weights[1]
    assert {path.split("/")[0] for path in there.root.list()} == {
        "manifests", "caches", "mappings", "students",
    }  # fmt: skip


def test_copies_that_fit_are_not_worth_a_word_and_less_than_a_shard_is_refused(
    remote: dict[str, Any], tmp_path: Path
) -> None:
    remote["runtime"]["copies_gb"] = 1
    notes = Notes()
    with reporting_to(notes):
        pipeline = Pipeline(load_config(write_config(tmp_path, remote)))
        assert pipeline.mapped
    assert not any("copies may lie" in note for note in notes.notes)
    root = open_existing(str(tmp_path / "run.yaml"))
    assert root.reading == Reading(str(tmp_path / "copies"), 10**9)
    remote["runtime"]["latents_memory_gb"] = 1
    root = open_existing(str(write_config(tmp_path, remote)))
    held = FeatureCache.open(root, pipeline.extracted.training_cache).reader(
        pipeline.indexed.data.keys("train")
    )
    held.load_all()
    assert held.copies is None
    remote["runtime"] |= {"copies_gb": 1e-6, "latents_memory_gb": 0}
    root = open_existing(str(write_config(tmp_path, remote)))
    cache = FeatureCache.open(root, pipeline.extracted.training_cache)
    with pytest.raises(StorageInputError, match=r"may hold 1000\. Give it more"):
        cache.reader(pipeline.indexed.data.keys("train"))


def test_init_finds_photos_in_a_bucket_and_lists_of_them(s3_url: str, tmp_path: Path) -> None:
    root = open_root(s3_url)
    root.write("shop/shoes/one.JPG", encoded(photo(0), "JPEG"))
    root.write("lists/things.csv", f"uri\n{s3_url}/shop/shoes/one.JPG\n".encode())
    root.write("texts/readme.md", b"")
    for uri, name in ((f"{s3_url}/shop/", "shop"), (f"{s3_url}/lists/things.csv", "things")):
        target = tmp_path / f"{name}.yaml"
        init(uri, target)
        assert load_config(target).data.uri == uri.rstrip("/")
        assert load_config(target).data.name == name
    for uri, message in (
        (f"{s3_url}/texts", "texts holds no photos .*jpg"),
        (f"{s3_url}/lists/none.csv", "there is no s3://.*none.csv"),
        (str(tmp_path / "none"), "there is no folder"),
    ):
        with pytest.raises((InputError, StorageInputError), match=message):
            init(uri, tmp_path / "none.yaml")
    with pytest.raises(StorageInputError, match="there is no bucket nowhere"):
        init("s3://nowhere/photos", tmp_path / "none.yaml")


class Tintem:
    """The command, in processes of its own."""

    def __init__(self, home: Path) -> None:
        self._environment = {**os.environ, "COLUMNS": "200", "XDG_DATA_HOME": str(home)}
        self._command = str(Path(sys.executable).parent / "tintem")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self._command, *arguments],
            env=self._environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __call__(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        printed, _ = process.communicate(timeout=280)
        assert process.returncode == code, printed
        return printed

    def kill_when(self, reached: Callable[[], bool], *arguments: str) -> None:
        process = self.start(*arguments)
        while not reached():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()


def found(root: Root, kind: str, part: str) -> list[str]:
    return [path for path in root.list(kind) if part in path]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_in_a_bucket_killed_in_extraction_and_in_training_is_resumed_to_the_same_model(
    remote: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    remote["cache"]["rows_per_shard"] = 4
    remote["views"]["count"] = 4
    remote["training"]["epochs"] = 12
    remote["runtime"]["checkpoint_seconds"] = 0
    config, tintem = str(write_config(tmp_path, remote)), Tintem(tmp_path / "home")
    root = open_root(remote["root"])

    def commits() -> list[str]:
        return found(root, "caches", "/commits/")

    tintem.kill_when(lambda: len(commits()) >= 3, "run", config)
    done = {path: root.facts(path)[path] for path in commits()}
    assert json.loads(tintem("status", config, "--json"))["caches"][0]["progress"] < 1
    assert "shards to come" in tintem("verify", config)

    tintem.kill_when(lambda: len(found(root, "students", "/checkpoints/")) >= 2, "run", config)
    assert {path: root.facts(path)[path] for path in done} == done
    (student,) = json.loads(tintem("status", config, "--json"))["students"]
    assert 0 < student["progress"] < 1

    printed = tintem("run", config)
    assert "continuing at step" in printed
    assert "copies may lie in" in printed
    assert f"model   {remote['root']}/exports/" in printed
    assert 0 < copied(tmp_path / "copies") <= _LITTLE
    whole = load_config(
        write_config(
            tmp_path, remote | {"root": settings["root"], "data": settings["data"]}, "l.yaml"
        )
    )
    for kind, file in (("students", "student.safetensors"), ("exports", "student.onnx")):
        (thing,) = root.folders(kind)
        local = getattr(Pipeline(whole), {"students": "trained", "exports": "exported"}[kind])
        assert thing == local.id
        here = read_file(open_root(whole.root), kind, thing, file)
        if kind == "students":
            assert read_file(root, kind, thing, file) == here
        else:
            assert len(read_file(root, kind, thing, file)) == len(here)
    assert found(root, "", "checkpoints") == found(root, "", "leases") == []

    shard = [path for path in found(root, "caches", "/global/c/") if "-light-" in path][2]
    root.write(shard, damaged(root.read(shard), 700))
    told = tintem("verify", config, code=1)
    assert shard in told
    assert f"tintem repair {config}" in told
    assert "withdrew 1 damaged shards" in (mended := tintem("repair", config))
    assert "computed 1 of them again" in mended
    assert tintem("verify", config).count("sound") == 2
    assert "nothing to merge" in tintem("compact", config)
    plan = json.loads(tintem("plan", config, "--json"))
    assert plan["bytes_needed"] == 0
    assert plan["bytes_free"] is None
    assert plan["reused"] == ["mapping", "student"]
    assert "Extract" not in tintem("run", config)


@pytest.mark.slow
def test_new_photos_in_the_bucket_are_embedded_and_others_are_not(
    remote: dict[str, Any], tmp_path: Path
) -> None:
    config = load_config(write_config(tmp_path, remote))
    assert Pipeline(config).extracted
    photos = open_root(config.data.uri)
    photos.write("disc/new.png", encoded(photo(500)))
    photos.write("plain/moved.png", photos.read("disc/photo-0000.png"))
    photos.delete("disc/photo-0000.png")
    notes = Notes()
    with reporting_to(notes):
        pipeline = Pipeline(config)
        assert pipeline.extracted
    assert notes.work["Extract shapes (eval)"] == 1
    cache = FeatureCache.open(pipeline.root, pipeline.extracted.evaluation_caches["shapes"])
    assert np.isfinite(cache.reader(pipeline.indexed.data.keys()).all(0)).all()


def test_a_weight_file_in_a_bucket_is_named_as_it_was_written(
    remote: dict[str, Any], tmp_path: Path
) -> None:
    remote["teacher"]["weights"] = "s3://models/teacher.safetensors"
    with pytest.raises(InputError, match=r"s3://models/teacher\.safetensors is no file of this"):
        assert Pipeline(load_config(write_config(tmp_path, remote))).extracted
