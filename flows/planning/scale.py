"""How much a feature cache takes: bytes, objects, hours. Plain arithmetic, no disk, no model.

`python -m flows.planning.scale` prints the tables of docs/scale.md.

Legend: ``R`` rows (images) of a shard, ``C`` rows of an inner chunk.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from storage.cache import CacheSpec, KindSpec
from storage.cache.spec import choose_layout

Dtype = Literal["float16", "int8", "float32"]

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


def vit_kinds(width: int, tokens: int, dtype: Dtype) -> dict[str, KindSpec]:
    """Return the kinds of a vision transformer: the global embedding, and tokens unless 0."""
    kinds = {"global": KindSpec(shape=(width,), dims=("feature",), dtype=dtype)}
    if tokens:
        dims = ("token", "feature")
        kinds["tokens"] = KindSpec(shape=(tokens, width), dims=dims, dtype=dtype)
    return kinds


def slowest(seconds: Mapping[str, float]) -> tuple[str, float]:
    """Return the step that decides how long steps take that overlap, and its seconds."""
    name = max(seconds, key=lambda step: seconds[step])
    return name, seconds[name]


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it: 80 s, 12 min, 31 h, 9 days."""
    for unit, length in (("s", 1), ("min", 60), ("h", 3600)):
        if seconds < 100 * length:
            return f"{seconds / length:.{1 if seconds < 9.95 * length else 0}f} {unit}"
    return f"{seconds / 86400:.0f} days"


DATASETS = {"ImageNet-1k": 1_281_167, "10 million images": 10_000_000}
_TOKENS = 256
# (views embedded per second, MB/s written and read): one modest and one strong machine.
_MACHINES = ((1_000, 200), (5_000, 2_000))


def markdown(name: str) -> str:
    """Return the table of one of ``DATASETS``."""
    machines = [f"{views:,} views/s, {mb:,} MB/s" for views, mb in _MACHINES]
    head = ["stored", "type", "views", "size", "objects"]
    head += [f"extraction, hours ({machine})" for machine in machines]
    head += [f"reading an epoch ({mb:,} MB/s)" for _, mb in _MACHINES]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)], *_rows(DATASETS[name])]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _rows(images: int) -> Iterator[list[str]]:
    dtypes: tuple[Dtype, ...] = ("float16", "int8")
    for tokens in (0, _TOKENS):
        for width in (384, 768):
            for dtype in dtypes:
                for views in (1, 4, 8):
                    size = footprint(vit_kinds(width, tokens, dtype), images, views)
                    yield [
                        f"global {width}" + (f" + tokens {tokens} × {width}" if tokens else ""),
                        dtype,
                        str(views),
                        _size(size.bytes),
                        f"{size.objects:,}",
                        *(
                            _number(max(images * views / speed, size.bytes / mb / 1e6) / 3600)
                            for speed, mb in _MACHINES
                        ),
                        *(duration(size.bytes / views / mb / 1e6) for _, mb in _MACHINES),
                    ]


def _size(count: int) -> str:
    return f"{_number(count / 1e12)} TB" if count >= 1e12 else f"{_number(count / 1e9)} GB"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


if __name__ == "__main__":
    for dataset in DATASETS:
        print(f"{dataset}\n\n{markdown(dataset)}")
