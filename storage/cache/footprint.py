"""How much a feature cache takes: bytes and objects. Plain arithmetic, no disk."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from storage.cache.spec import CacheSpec, KindSpec, choose_layout

_LARGE_PAGE = 2 * 2**20
_CRC, _INDEX_ENTRY = 4, 16
# Per image, keys being incompressible: the row table and its copy, as Parquet.
_ROW_TABLE = 36
# Per shard its commit record, and in it each file.
_COMMIT, _COMMITTED_FILE = 130, 83
# README, records and Zarr metadata.
_FIXED_BYTES = 10_000
# record.json and its copy, metadata.json, README.md, zarr.json of the group; the row table with
# its record, and a copy of both.
_FIXED_OBJECTS = 5 + 4


@dataclass(frozen=True)
class Footprint:
    """What a cache takes."""

    images: int
    views: int
    shards: int
    bytes: int
    objects: int


def footprint(
    kinds: Mapping[str, KindSpec], images: int, views: int, rows: int | None = None
) -> Footprint:
    """Size of a cache written in one go.

    Args:
        kinds: what is stored per view and image.
        images, views: how many.
        rows: images per shard; None: as the extraction chooses them.
    """
    spec = CacheSpec(slug="plan", content={}, views=views, kinds=dict(kinds))
    layout = choose_layout(spec, rows or rows_per_shard(spec, images))
    arrays = [kind.row_bytes for kind in kinds.values()]
    arrays += [4 for kind in kinds.values() if kind.dtype == "int8"]
    shards = math.ceil(images / layout.rows_per_shard)
    full, rest = divmod(images, layout.rows_per_shard)
    chunk_rows = layout.rows_per_chunk
    chunks = views * (full * (layout.rows_per_shard // chunk_rows) + math.ceil(rest / chunk_rows))
    index = shards * (views * (layout.rows_per_shard // chunk_rows) * _INDEX_ENTRY + _CRC)
    stored = sum(chunks * (chunk_rows * row_bytes + _CRC) + index for row_bytes in arrays)
    return Footprint(
        images=images,
        views=views,
        shards=shards,
        bytes=stored
        + images * _ROW_TABLE
        + shards * (_COMMIT + len(arrays) * _COMMITTED_FILE)
        + _FIXED_BYTES,
        objects=shards * (len(arrays) + 1) + len(arrays) + _FIXED_OBJECTS,
    )


def rows_per_shard(spec: CacheSpec, images: int) -> int:
    """Cut a small dataset into about 16 shards, so that a kill loses little.

    None is smaller than a large memory page: such files are a quarter slower to read at random.
    """
    largest = spec.views * max(kind.row_bytes for kind in spec.kinds.values())
    rows = max(_LARGE_PAGE / largest, images / 16)
    return min(choose_layout(spec, None).rows_per_shard, math.ceil(rows / 64) * 64)
