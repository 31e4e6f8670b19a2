"""The extraction: what is stored is what the teacher gives, and what storing costs is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.config import RunConfig, load_config
from flows.reporting import reporting_to
from flows.stages.extract import view_source
from flows.stages.pipeline import Pipeline
from flows.stages.stored import stored_cosine
from flows.stages.teacher import load_teacher
from storage.cache import FeatureCache
from storage.spec import CacheSpec, KindSpec
from tests.flows.conftest import Notes, write_config
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
    cache = FeatureCache.open(pipeline.root, pipeline.extracted.views)
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
    ("dtype", "least"), [("float16", 0.999999), ("int8", 0.9995), ("float32", 0.9999999)]
)
def test_what_the_stored_form_costs_is_measured_and_said(
    settings: dict[str, Any], tmp_path: Path, dtype: str, least: float
) -> None:
    notes = Notes()
    with reporting_to(notes):
        assert Pipeline(with_cache(settings, tmp_path, dtype=dtype, tokens=True)).extracted
    (note,) = (n for n in notes.notes if n.startswith("shapes (light): stored as"))
    assert note.startswith(f"shapes (light): stored as {dtype}: smallest cosine to float32 ")
    *_, first, _, second, _ = note.split(" ")
    assert min(float(first), float(second)) >= least - 1e-6
    assert note.endswith("(tokens)")


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


def test_a_failing_write_stops_the_extraction(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(FeatureCache, "write_shard", full)
    monkeypatch.setattr("flows.stages.extract.check_stored", lambda *_: None)
    with pytest.raises(OSError, match="No space left"):
        assert Pipeline(config).extracted
