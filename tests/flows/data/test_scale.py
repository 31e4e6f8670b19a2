"""The arithmetic of `tintem plan` against caches that were really written; the docs against it."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.scale_tables import DATASETS, Dtype, markdown, vit_kinds
from flows.data.dataset import Dataset
from storage.cache import CacheSpec, FeatureCache
from storage.cache.footprint import footprint, rows_per_shard
from storage.identity import digest
from storage.images import SourceConfig, build_manifest
from storage.root import open_root

_SCRIPT = """
import json, pickle, sys
from types import SimpleNamespace as Some
import numpy as np
import polars as pl
from flows.data.dataset import Dataset
from flows.data.rendering import view_source
from storage.cache import CacheSpec, FeatureCache, KindSpec
from storage.images.manifest import SCHEMA
from storage.images import Manifest, SourceConfig
from tintem_core.training.order import EpochOrder
from storage.root import open_root
from tests.storage.cache.pretended import peak_memory, pretend_written
from tintem_core.views import ViewRecipe

rows = int(sys.argv[2])
root = open_root(sys.argv[1])

def listed():
    number = pl.int_range(rows, dtype=pl.UInt64)
    low, high = (number.hash(seed).cast(pl.String).str.zfill(20).str.slice(4) for seed in (1, 2))
    table = pl.select(
        row=number,
        key=pl.concat_str(low, high),
        uri=pl.format("class-{}/photo-{}.jpg", number % 100, number),
        label=pl.format("class-{}", number % 100),
        split=pl.when(number % 10 == 0).then(pl.lit("test")).otherwise(pl.lit("train")),
        width=640, height=480, bytes=number + 1, modified=number + 1,
        pixels=pl.lit(None, pl.String),
    ).cast(SCHEMA)
    none = pl.DataFrame(schema={"uri": pl.String, "reason": pl.String})
    source = SourceConfig(name="x", uri=root.url)
    return Manifest(source, table, none, table.clear().drop("row"))

listed().save(root)
data = Dataset(Manifest.latest(root, "x"))
kinds = {"global": KindSpec(shape=(1280,), dims=("feature",))}
cache = FeatureCache.create_or_open(root, CacheSpec(slug="x", content={}, views=2, kinds=kinds))
tasks = cache.plan(data.keys("train"))
left = len(tasks[1::2])
pretend_written(cache, tasks[::2])
del tasks
assert len(cache.plan(data.keys("train"))) == left
config = Some(views=Some(recipe=ViewRecipe()), teacher=Some(image_size=64))
source = view_source(config, data, "train")
data.digest("train", labels=True)
order = EpochOrder(rows=len(source.keys), seed=1)
ends = range(0, len(source.keys), 1024)
steps = (order.at(0, np.arange(i, min(i + 1024, len(source.keys)))) for i in ends)
assert sum(len(rows) for rows in steps) == len(source.uris) == 0.9 * rows
sent = len(pickle.dumps(source))
peak = peak_memory()
print(json.dumps({"sent": sent, "peak": peak}))
"""

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize(
    ("images", "views", "tokens", "rows"),
    [(70, 1, 0, None), (1000, 2, 0, None), (200, 3, 4, None), (200, 3, 4, 48), (1000, 1, 0, 1000)],
)
def test_bytes_and_objects_are_those_of_a_cache_that_was_written(
    tmp_path: Path, dtype: Dtype, images: int, views: int, tokens: int, rows: int | None
) -> None:
    kinds = vit_kinds(96, tokens, dtype)
    spec = CacheSpec(slug="x", content={}, views=views, kinds=kinds)
    size = rows or rows_per_shard(spec, images)
    cache = FeatureCache.create_or_open(open_root(tmp_path), spec, rows_per_shard=size)
    rng = np.random.default_rng(0)
    for task in cache.plan([rng.bytes(16).hex() for _ in range(images)]):
        shapes = {name: (views, len(task.keys), *kind.shape) for name, kind in kinds.items()}
        cache.write_shard(
            task, {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
        )
    found = footprint(kinds, images, views, rows)
    assert found.objects == len(cache.root.list(cache.base))
    assert found.shards == cache.stats()["shards"]
    # Metadata and tables are estimates; the embeddings are counted to the byte.
    tables = cache.root.size(cache.base) - sum(cache.stats()["bytes"].values())
    assert abs(found.bytes - cache.root.size(cache.base)) < 0.4 * tables


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_tables_of_the_docs_are_what_the_code_computes(dataset: str) -> None:
    page = (ROOT / "docs" / "scale.md").read_text()
    assert f"## {dataset} ({DATASETS[dataset]:,})\n\n{markdown(dataset)}" in page


def test_the_docs_cover_what_was_asked_for() -> None:
    lines = markdown("ImageNet-1k").splitlines()
    assert len(lines) == 2 + 2 * 2 * 2 * 3
    (line,) = (x for x in lines if x.startswith("| global 384 + tokens 256 × 384 | int8 | 8 |"))
    # 1,281,167 × 8 × 257 × 384 bytes ≈ 1.01 TB.
    assert "| 1.0 TB |" in line


def test_the_columns_of_a_dataset_are_as_good_as_lists(
    photo_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photo_folder(20, classes=("disc", "plän"))
    photo_folder(23, first=20)
    data = Dataset(build_manifest(SourceConfig(name="x", uri=str(folder), labels="none")))
    table = data.manifest.table.sort("key")
    labelled = replace(data.manifest, table=data.manifest.table.with_columns(label=pl.col("uri")))
    monkeypatch.setattr("flows.data.dataset._SLICE", 7)
    for split in ("train", None):
        rows = table if split is None else table.filter(pl.col("split") == split)
        keys, uris = rows["key"].to_list(), rows["uri"].to_list()
        assert data.keys(split) == keys
        assert data.uris(split)[3:] == uris[3:]
        assert data.uris(split)[np.int64(-2)] == uris[-2]
        # As what is sent to another process.
        assert copy.copy(data.uris(split)) == uris
        assert None in data.labels(split)
        assert data.digest(split) == digest([keys])
        assert data.digest(split, labels=True) == digest([keys, [None] * len(keys)])
        assert Dataset(labelled).digest(split, labels=True) == digest([keys, uris])
    assert not data.without(data.keys()).keys()
    assert data.without([]).digest() == data.digest()
    assert data.without(data.keys()).digest() == digest([[]])


@pytest.mark.slow
def test_three_million_images_go_through_the_stages_in_their_share_of_memory(
    tmp_path: Path,
) -> None:
    images = 3_000_000
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path), str(images)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    # Of 4 GiB for ten million, and what Python and torch take.
    assert found["peak"] < 1.8 * 2**30, found
    # What each loader process is sent; a key alone has 16 bytes that cannot be packed.
    assert found["sent"] < 30 * images, found
    print(found)
