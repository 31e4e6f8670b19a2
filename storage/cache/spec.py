"""What a feature cache holds, and how it is cut into files.

Legend: V views, N images, R rows (images) of one shard, C rows of one inner chunk.
"""

import math
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, field_validator, model_validator

from storage.identity import make_id

FORMAT = 1
SHARD_BYTES = 32 * 2**20
SCALE_SUFFIX = "_scale"
MOST_ROWS_PER_SHARD = 2**24
_FEWEST_ROWS, _MOST_ROWS = 64, 4096
_FEWEST_CHUNK_ROWS = 32
_CHUNKS_PER_SHARD = 8


class KindSpec(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """One array of embeddings."""

    shape: tuple[int, ...] = Field(
        min_length=1, description="per view and image: (1280,) or (49, 768)"
    )
    dims: tuple[str, ...] = Field(description="a name per axis of `shape`")
    dtype: Literal["float16", "int8", "float32"] = Field(
        "float16", description="as stored; int8 keeps one float32 scale per row beside it"
    )
    grid: tuple[int, int] | None = Field(
        None, description="rows and columns that the first axis of `shape` fills, row by row"
    )

    @model_validator(mode="after")
    def _one_name_per_axis(self) -> "KindSpec":
        if len(self.dims) != len(self.shape) or min(self.shape) < 1:
            raise ValueError(f"shape {self.shape} needs {len(self.shape)} dims and sizes above 0")
        if len({"view", "image", *self.dims}) < len(self.dims) + 2:
            raise ValueError(f"dims {self.dims} must differ, also from 'view' and 'image'")
        if self.grid is not None and math.prod(self.grid) != self.shape[0]:
            raise ValueError(f"a grid of {self.grid} does not hold {self.shape[0]}")
        return self

    @property
    def items(self) -> int:
        """Numbers per view and image."""
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes per view and image, without the scale."""
        return self.items * np.dtype(self.dtype).itemsize


class CacheSpec(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Everything that determines the values of a cache; its digest is the cache's name."""

    slug: str = Field(min_length=1, description="the readable part of the id")
    content: dict[str, Any] = Field(
        description="teacher, weights digest, preprocessing, view recipe, dataset: opaque here"
    )
    views: int = Field(ge=1, description="views stored per image")
    kinds: dict[str, KindSpec] = Field(min_length=1, description="arrays by name")

    @field_validator("kinds")
    @classmethod
    def _names_are_free(cls, kinds: dict[str, KindSpec]) -> dict[str, KindSpec]:
        taken = {"rows", "commits"} | {f"{name}{SCALE_SUFFIX}" for name in kinds}
        bad = [name for name in kinds if name in taken or not name.isidentifier()]
        if bad:
            raise ValueError(f"{bad[0]!r} cannot name a kind; use a plain word such as 'global'")
        return kinds

    @property
    def id(self) -> str:
        """Slug plus digest of content, views and kinds."""
        what = self.determining()
        return make_id(what.pop("slug"), what)

    def determining(self) -> dict[str, Any]:
        """Everything that determines the values, as JSON has it."""
        # A grid says how to look at the values; it does not change them.
        return self.model_dump(mode="json", exclude={"kinds": {"__all__": {"grid"}}})


Codec = Literal["none", "zstd", "blosc-shuffle", "blosc-bitshuffle"]


class Layout(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How rows are cut into shards; it changes files, never values."""

    rows_per_shard: int = Field(
        ge=1, le=MOST_ROWS_PER_SHARD, description="images per shard file, all views of each"
    )
    rows_per_chunk: int = Field(ge=1, description="images per inner chunk, one view each")
    codec: Codec = Field("none", description="all but none are for archives only")


def choose_layout(spec: CacheSpec, rows_per_shard: int | None, codec: str = "none") -> Layout:
    """Shards of about 32 MiB of the largest kind, between 64 and 4096 images each."""
    rows = rows_per_shard
    if rows is None:
        largest = spec.views * max(kind.row_bytes for kind in spec.kinds.values())
        rows = SHARD_BYTES // largest // _FEWEST_ROWS * _FEWEST_ROWS
        rows = min(max(rows, _FEWEST_ROWS), _MOST_ROWS)
    chunk = next(
        (
            rows // pieces
            for pieces in (_CHUNKS_PER_SHARD, 4, 2)
            if rows % pieces == 0 and rows // pieces >= _FEWEST_CHUNK_ROWS
        ),
        rows,
    )
    return Layout.model_validate({"rows_per_shard": rows, "rows_per_chunk": chunk, "codec": codec})
