"""The arithmetic of `tintem plan` against caches that were really written; the docs against it."""

from pathlib import Path

import numpy as np
import pytest

from flows.planning.scale import (
    DATASETS,
    Dtype,
    footprint,
    markdown,
    rows_per_shard,
    slowest,
    vit_kinds,
)
from storage.cache import CacheSpec, FeatureCache
from storage.root import open_root

ROOT = Path(__file__).parent.parent.parent


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


def test_the_slowest_of_overlapping_steps_decides() -> None:
    assert slowest({"a": 1.0, "b": 3.0, "c": 2.0}) == ("b", 3.0)
