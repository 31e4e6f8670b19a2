"""What docs/cache.md shows is run in the folders of caches, beside what the reader gives."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.config.load import load_config
from flows.stages.pipeline import Pipeline
from storage.cache import FeatureCache
from tests.docs.ledger import CACHE, run_by
from tests.docs.pages import blocks
from tests.runs import write_config


@pytest.mark.parametrize("more", [{"dtype": "float16"}, {"dtype": "int8", "tokens": True}])
def test_the_examples_read_what_the_extraction_stored(
    more: dict[str, Any], settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["cache"] |= more
    run = Pipeline(load_config(write_config(tmp_path, settings)))
    split = {run.extracted.training_cache: "train", run.extracted.evaluation_caches["shapes"]: None}
    for cache_id, of in split.items():
        cache = FeatureCache.open(run.root, cache_id)
        folder = run.root.path(f"caches/{cache_id}")
        assert folder is not None
        monkeypatch.chdir(folder)
        _compare_listing(folder)
        by_zarr, by_xarray = run_by(CACHE)
        found: dict[str, Any] = {}
        exec(compile(by_zarr.text, by_zarr.page, "exec"), found)
        photos: pl.DataFrame = found["photos"]
        wanted = cache.reader(photos["key"], "global").all(0)
        np.testing.assert_allclose(found["embeddings"], wanted, rtol=1e-6)
        assert len(photos) == len(run.indexed.data.keys(of))

        exec(compile(by_xarray.text, by_xarray.page, "exec"), found)
        if more["dtype"] == "float16":
            mean = wanted.astype(np.float32).mean(axis=0)
            np.testing.assert_allclose(found["mean"], mean, rtol=2e-2, atol=2e-3)


def _compare_listing(folder: Path) -> None:
    """The page names every file and folder of a cache."""
    (listing,) = [block.text for block in blocks("docs/cache.md") if "caches/ID/" in block.text]
    for place in folder.iterdir():
        assert f"  {place.name}" in listing or f" {place.name} is the same" in listing, place.name
