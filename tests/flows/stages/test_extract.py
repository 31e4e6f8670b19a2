"""The extraction: what is stored is what the teacher gives, and what storing costs is said."""

import re
import threading
import time
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr

from flows.config.load import load_config, parse_config
from flows.config.run import RunConfig
from flows.data.caches import fragmented
from flows.data.rendering import view_source
from flows.reporting.base import reporting_to
from flows.stages.cache_checks import check_precision, stored_cosine
from flows.stages.cache_requests import requested_caches
from flows.stages.extract import ensure
from flows.stages.models import load_teacher
from flows.stages.pipeline import Pipeline
from storage.artifacts import read_file
from storage.cache import CacheSpec, FeatureCache, Fragmentation, KindSpec
from storage.lease import hold
from storage.root.base import ObjectFacts
from tests.photos import photo
from tests.runs import Notes, write_config
from tests.storage.cache.published import stored_rows
from tintem_core.errors import InputError


def with_cache(settings: dict[str, Any], folder: Path, **changes: Any) -> RunConfig:
    settings["cache"] |= changes
    return load_config(write_config(folder, settings))


@pytest.mark.parametrize("batch_size", [3, 64])
def test_every_view_of_every_photo_is_what_the_teacher_gives(
    settings: dict[str, Any], tmp_path: Path, batch_size: int
) -> None:
    """Batches that end inside shards, and shards that end inside batches."""
    settings["teacher"]["batch_size"] = batch_size
    settings["views"]["count"] = 3
    config = with_cache(settings, tmp_path, tokens=True, dtype="float32", rows_per_shard=5)
    pipeline = Pipeline(config)
    cache = FeatureCache.open(pipeline.root, pipeline.extracted.training_cache)
    source = view_source(config, pipeline.indexed.data, "train")
    teacher = load_teacher(config.teacher, "cpu")
    found = {kind: cache.reader(source.keys, kind) for kind in cache.spec.kinds}
    for row in range(len(source.keys)):
        wanted = teacher.embed(source.views(row, range(3), 64), tokens=True)
        assert wanted.tokens is not None
        for kind, values in (("global", wanted.embedding), ("tokens", wanted.tokens)):
            stored = found[kind].take(np.arange(3), np.full(3, row))
            np.testing.assert_allclose(stored, values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "least", "other"),
    [("float16", 0.999999, "int8"), ("int8", 0.9995, "float16"), ("float32", 1.0, "float16")],
)
def test_what_the_stored_form_costs_is_measured_and_said_beside_the_other_one(
    settings: dict[str, Any], tmp_path: Path, dtype: str, least: float, other: str
) -> None:
    notes = Notes()
    with reporting_to(notes):
        assert Pipeline(with_cache(settings, tmp_path, dtype=dtype, tokens=True)).extracted
    (note,) = (n for n in notes.notes if n.startswith("shapes (light): stored as"))
    found = re.fullmatch(
        r"shapes \(light\): stored as (\w+): cosine to float32 ≥ ([\d.]+) \(global\), ([\d.]+) "
        r"\(tokens\); (\w+) would keep ≥ ([\d.]+) \(global\), ([\d.]+) \(tokens\) in (\d+)% of "
        r"the bytes",
        note,
    )
    assert found is not None, note
    assert (found[1], found[4]) == (dtype, other)
    assert min(float(found[2]), float(found[3])) >= least - 1e-6
    assert min(float(found[5]), float(found[6])) >= (0.999998 if other == "float16" else 0.9994)
    tokens, width = 4, 256
    bytes_of = {"float32": 4 * width, "float16": 2 * width, "int8": width + 4}
    values = {name: (1 + tokens) * size for name, size in bytes_of.items()}
    values["int8"] = (1 + tokens) * width + 2 * 4
    assert int(found[7]) == round(100 * values[other] / values[dtype])


def test_a_form_that_cannot_hold_the_embeddings_is_no_alternative() -> None:
    kind = KindSpec(shape=(4,), dims=("feature",), dtype="float32")
    spec = CacheSpec(slug="x", content={}, views=1, kinds={"global": kind})
    notes = Notes()
    with reporting_to(notes):
        check_precision(spec, {"global": np.full((1, 3, 4), 1e6, np.float32)}, 0.999, "huge")
    (note,) = notes.notes
    assert note.endswith("cosine to float32 ≥ 1.000000 (global); float16 cannot hold them")


def test_a_stranger_is_told_the_grid_of_the_tokens(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    pipeline = Pipeline(with_cache(settings, tmp_path, tokens=True))
    folder = pipeline.root.path(f"caches/{pipeline.extracted.training_cache}")
    assert folder is not None
    tokens = zarr.open_group(folder, mode="r")["tokens"]
    assert tokens.attrs["grid"] == [2, 2]
    assert tokens.shape[2] == 4
    assert (
        "4 × 256 numbers per image; a grid of 2 × 2, row by row"
        in (folder / "README.md").read_text()
    )


def test_an_archive_is_made_by_a_run_and_an_existing_cache_keeps_its_codec(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    config = with_cache(settings, tmp_path, codec="zstd", rows_per_shard=16)
    config = config.model_copy(
        update={"runtime": config.runtime.model_copy(update={"copies_folder": str(tmp_path / "c")})}
    )
    archived = Pipeline(config)
    assert archived.trained
    assert list((tmp_path / "c").glob("*.shard"))
    (tmp_path / "plain").mkdir()
    plain = Pipeline(
        with_cache(settings | {"root": str(tmp_path / "plain")}, tmp_path, codec="none")
    )
    assert plain.trained.id == archived.trained.id
    assert plain.extracted.training_cache == archived.extracted.training_cache
    folders = [
        pipeline.root.path(f"caches/{pipeline.extracted.training_cache}")
        for pipeline in (archived, plain)
    ]
    np.testing.assert_array_equal(
        *(zarr.open_group(folder, mode="r")["global"][:] for folder in folders)
    )
    weights = [
        read_file(p.root, "students", p.trained.id, "student.safetensors")
        for p in (archived, plain)
    ]
    assert weights[0] == weights[1]

    notes = Notes()
    with reporting_to(notes):
        assert Pipeline(with_cache(settings, tmp_path, codec="none")).extracted.reused
    told = [note for note in notes.notes if "keeps the codec 'zstd'" in note]
    assert len(told) == 2
    assert "for 'none' delete" in told[0]
    assert (
        FeatureCache.open(archived.root, archived.extracted.training_cache).layout.codec == "zstd"
    )


def test_a_cache_cut_too_finely_is_told_with_the_command_that_mends_it(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, notes = Pipeline(config), Notes()
    with reporting_to(notes):
        assert pipeline.extracted
    assert not any("tintem compact" in note for note in notes.notes)
    cache = FeatureCache.open(pipeline.root, pipeline.extracted.training_cache)
    assert fragmented(cache) == ""
    monkeypatch.setattr("storage.cache.compaction._WORTH_A_WORD", 0)
    found = Fragmentation(5, 2)
    monkeypatch.setattr(FeatureCache, "fragmentation", lambda _: found)
    assert fragmented(cache) == (
        f"cut into 5 shards where 2 would do: `tintem compact {config.root} {cache.id}` merges "
        "them, and computes nothing again"
    )
    cache.root.delete("caches")
    with reporting_to(notes):
        assert Pipeline(config).extracted
    assert [n.split(":")[0] for n in notes.notes if "tintem compact" in n] == [
        "shapes (light)", "shapes (eval)",
    ]  # fmt: skip


def test_a_form_that_loses_too_much_is_refused_before_anything_is_stored(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    config = with_cache(settings, tmp_path, dtype="int8", stored_cosine=1.0)
    for _ in range(2):
        with pytest.raises(InputError, match=r"stored as int8.*0\.99\d+ .*wider type"):
            assert Pipeline(config).extracted
    (cache,) = (Path(config.root) / "caches").iterdir()
    assert not list((cache / "global").glob("c/**/0"))


def test_the_measured_cosine_is_that_of_the_stored_bytes() -> None:
    rng = np.random.default_rng(0)
    # One large number makes the steps of int8 too coarse for the others.
    rows = rng.standard_normal((2, 10, 64)).astype(np.float32)
    rows[:, :, 0] = 400
    kind = KindSpec(shape=(64,), dims=("feature",), dtype="int8")
    spec = CacheSpec(slug="x", content={}, views=2, kinds={"global": kind})
    coarse = np.rint(rows * (127 / 400)) * (400 / 127)
    cosines = (rows * coarse).sum(-1) / np.sqrt((rows**2).sum(-1) * (coarse**2).sum(-1))
    assert stored_cosine(spec, {"global": rows}) == {"global": pytest.approx(cosines.min())}


def test_a_run_that_waits_for_another_gives_out_no_rows(config: RunConfig) -> None:
    pipeline, notes, computed = Pipeline(config), Notes(), []
    want = requested_caches(config, load_teacher(config.teacher, "cpu"))[0]
    rows = f"caches/{want.spec.id}/rows"

    def work() -> None:
        with reporting_to(notes):
            computed.append(ensure(config, pipeline.root, want, pipeline.indexed))

    assert pipeline.indexed
    second = threading.Thread(target=work)
    with hold(pipeline.root, f"caches/{want.spec.id}"):
        second.start()
        while not any("waiting for process" in note for note in notes.notes):
            assert second.is_alive()
            time.sleep(0.01)
        assert pipeline.root.list(rows) == []
    second.join()
    assert computed != [0]
    assert pipeline.root.list(rows) != []


def test_photos_are_embedded_in_the_order_of_their_files(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    photos = [path.read_bytes() for path in sorted(Path(settings["data"]["uri"]).rglob("*.png"))]
    for name, part in (("a", photos[:30]), ("b", photos[30:])):
        table = pl.DataFrame({"image": [{"bytes": data} for data in part]})
        table.write_parquet(tmp_path / f"{name}.parquet")
    settings["data"]["uri"] = str(tmp_path / "*.parquet")
    pipeline = Pipeline(load_config(write_config(tmp_path, settings)))
    cache = FeatureCache.open(pipeline.root, pipeline.extracted.training_cache)
    data = pipeline.indexed.data
    uri_of = dict(zip(data.keys(), data.uris(), strict=True))
    stored = [uri_of[key] for key, _ in sorted(stored_rows(cache).items(), key=itemgetter(1))]
    places = [(uri.split("#")[0], int(uri.split("#")[1])) for uri in stored]
    assert len(places) > 20
    assert places == sorted(places)
    assert sorted(data.keys("train")) == list(data.keys("train"))


def test_more_photos_per_shard_than_a_shard_can_hold_are_refused_in_a_sentence(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"cache\.rows_per_shard.*16777216"):
        with_cache(settings, tmp_path, rows_per_shard=20_000_000)


def test_a_failing_write_stops_the_extraction(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(FeatureCache, "write_shard", full)
    monkeypatch.setattr("flows.stages.shards.check_precision", lambda *_: None)
    with pytest.raises(OSError, match="No space left"):
        assert Pipeline(config).extracted


def test_a_photo_replaced_under_the_same_size_and_date_is_read_by_the_next_run(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a disk that knows no date of change but the one that copying sets back.
    monkeypatch.setattr("storage.root.local._facts", lambda status: ObjectFacts(status.st_size, 1))
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(40):
        photo(i).save(folder / f"{i:03d}.bmp")
    settings["data"] = {**settings["data"], "uri": str(folder)}
    first = Pipeline(parse_config(settings, "run"))
    assert first.extracted
    replaced = next(uri for uri in first.indexed.data.uris("train"))
    photo(777).save(folder / replaced)
    settings["views"]["count"] += 1
    told = rf"{replaced} has changed since it was indexed: run the same command again"
    with pytest.raises(InputError, match=told):
        assert Pipeline(parse_config(settings, "run")).extracted
    again = Pipeline(parse_config(settings, "run"))
    assert again.extracted
    assert set(again.indexed.data.keys()) != set(first.indexed.data.keys())
    assert not list((tmp_path / "root" / "manifests").glob("*.changed/*"))
