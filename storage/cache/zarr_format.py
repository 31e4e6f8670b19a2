"""The Zarr v3 side of a cache: its metadata, its shard files and their index.

Legend: V views, R rows of one shard, C rows of one inner chunk, K = R / C chunks.
Zarr writes the shards into memory; the caller publishes the bytes whole.
"""

import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import Blosc, Zstd
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from storage.cache.spec import SCALE_SUFFIX, CacheSpec, Layout
from storage.errors import CorruptShardError

NO_CHUNK = -1
# Never produced by quantisation, which stays within ±127: a hole cannot be taken for a value.
_INT8_HOLE = -128
_ABSENT = np.uint64(2**64 - 1)
_CRC_BYTES = 4
_DECODERS = min(8, os.cpu_count() or 1)
# Of embeddings, higher levels take longer and save nothing (docs/benchmarks.md, archives).
_ZSTD_LEVEL = 1


@dataclass(frozen=True)
class ArraySpec:
    """One Zarr array of a cache: a kind, or the scales of an int8 kind."""

    name: str
    kind: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: str
    grid: tuple[int, int] | None = None

    @property
    def dimensions(self) -> tuple[str, ...]:
        return ("view", "image", *self.dims)

    def shard_path(self, shard: int) -> str:
        """The file of one shard below the cache folder."""
        return f"{self.name}/c/0/{shard}" + "/0" * len(self.shape)


def arrays_of(spec: CacheSpec) -> list[ArraySpec]:
    """The Zarr arrays of a cache, each kind followed by its scales."""
    sizes: dict[str, set[int]] = {}
    for kind in spec.kinds.values():
        for dim, size in zip(kind.dims, kind.shape, strict=True):
            sizes.setdefault(dim, set()).add(size)
    found = []
    for name, kind in spec.kinds.items():
        # xarray gives every dimension name of a group one size.
        dims = tuple(dim if len(sizes[dim]) == 1 else f"{name}_{dim}" for dim in kind.dims)
        found.append(ArraySpec(name, name, kind.shape, dims, kind.dtype, kind.grid))
        if kind.dtype == "int8":
            found.append(ArraySpec(name + SCALE_SUFFIX, name, (), (), "float32"))
    return found


def metadata_files(spec: CacheSpec, layout: Layout, rows: int) -> dict[str, bytes]:
    """Every ``zarr.json`` of a cache with room for a number of rows, by path."""
    files: dict[str, Buffer] = {}
    store = MemoryStore(files)
    zarr.create_group(store, zarr_format=3, attributes=_group_attributes(spec))
    for array in arrays_of(spec):
        _create(store, array, layout, spec.views, rows, _array_attributes(array))
    with warnings.catch_warnings():
        # It is an extension that other readers skip; with it, readers that know it need not list
        # the folder, where they would find our records and wonder.
        warnings.filterwarnings("ignore", "Consolidated metadata")
        zarr.consolidate_metadata(store)
    return {path: bytes(files[path].to_bytes()) for path in sorted(files)}


def encode_shard(array: ArraySpec, layout: Layout, values: np.ndarray[Any, Any]) -> bytes:
    """The file of one shard, as Zarr writes it.

    Args:
        values: (V, rows, *shape) in the stored dtype, 1 <= rows <= R. Chunks past the last row
            are left out of the file; the rest of the last chunk is fill.
    """
    files: dict[str, Buffer] = {}
    target = _create(MemoryStore(files), array, layout, values.shape[0], layout.rows_per_shard, {})
    target[:, : values.shape[1]] = values
    return bytes(files[array.shard_path(0)].to_bytes())


def decode_shard(array: ArraySpec, layout: Layout, views: int, data: bytes) -> memoryview:
    """An archived shard file turned into the uncompressed file of the same rows.

    Byte for byte the one that Zarr would write, in a fraction of the time: every chunk is unpacked
    to its place, in threads. Large copies in between would cost as much as the unpacking.

    Args:
        data: checked against its record; the checksums in it are not looked at.
    """
    index_bytes = views * (layout.rows_per_shard // layout.rows_per_chunk) * 16
    packed, end = memoryview(data), len(data) - _CRC_BYTES
    index = np.frombuffer(packed[end - index_bytes : end], "<u8").reshape(-1, 2).copy()
    held = np.flatnonzero(index[:, 0] != _ABSENT)
    held = held[np.argsort(index[held, 0])]
    chunk_bytes = _chunk_bytes(array, layout)
    size = len(held) * chunk_bytes + index_bytes + _CRC_BYTES
    plain = np.empty(size, np.uint8).data
    codec = Zstd() if layout.codec == "zstd" else Blosc()

    def unpack(place: int, start: int, size: int) -> None:
        chunk = plain[place * chunk_bytes : (place + 1) * chunk_bytes]
        codec.decode(packed[start : start + size - _CRC_BYTES], chunk[:-_CRC_BYTES])
        _end_with_checksum(chunk)

    with ThreadPoolExecutor(_DECODERS) as pool:
        places = range(len(held))
        list(pool.map(unpack, places, index[held, 0].tolist(), index[held, 1].tolist()))
    index[held, 0] = np.arange(len(held), dtype=np.uint64) * chunk_bytes
    index[held, 1] = chunk_bytes
    end = len(held) * chunk_bytes
    plain[end:-_CRC_BYTES] = index.tobytes()
    _end_with_checksum(plain[end:])
    return plain


def _end_with_checksum(data: memoryview) -> None:
    value: int = google_crc32c.value(bytes(data[:-_CRC_BYTES]))
    data[-_CRC_BYTES:] = value.to_bytes(_CRC_BYTES, "little")


def _chunk_bytes(array: ArraySpec, layout: Layout) -> int:
    """Bytes of one inner chunk of an uncompressed shard file, with its checksum."""
    row_bytes = math.prod(array.shape) * np.dtype(array.dtype).itemsize
    return layout.rows_per_chunk * row_bytes + _CRC_BYTES


def plain_size(array: ArraySpec, layout: Layout, views: int, rows: int) -> int:
    """Bytes of an uncompressed shard file with this many rows."""
    index_bytes = views * (layout.rows_per_shard // layout.rows_per_chunk) * 16 + _CRC_BYTES
    chunks = -(-rows // layout.rows_per_chunk)
    return views * chunks * _chunk_bytes(array, layout) + index_bytes


def chunk_table(
    array: ArraySpec,
    layout: Layout,
    views: int,
    rows: int,
    data: np.ndarray[Any, np.dtype[np.uint8]],
    where: str,
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where each inner chunk of an uncompressed shard file begins.

    Returns:
        (V, K) int64 byte offsets; NO_CHUNK where the file holds none.

    Raises:
        CorruptShardError: if the index is damaged, or a chunk that must hold rows is absent.
    """
    chunks = layout.rows_per_shard // layout.rows_per_chunk
    index_bytes = views * chunks * 16
    index = data[-(index_bytes + 4) : -4].view("<u8").reshape(views, chunks, 2)
    offsets, sizes = index[..., 0], index[..., 1]
    absent = offsets == _ABSENT
    needed = -(-rows // layout.rows_per_chunk)
    row_bytes = math.prod(array.shape) * np.dtype(array.dtype).itemsize
    wrong = (sizes != layout.rows_per_chunk * row_bytes + 4) & ~absent
    if absent[:, :needed].any() or wrong.any():
        raise CorruptShardError(
            f"{where}: the shard index does not cover its {rows} rows. Run `tintem repair`."
        )
    return np.where(absent, np.int64(NO_CHUNK), offsets.astype(np.int64))


def _create(
    store: MemoryStore,
    array: ArraySpec,
    layout: Layout,
    views: int,
    rows: int,
    attributes: dict[str, Any],
) -> Any:
    compressors = [Crc32cCodec()]
    if layout.codec == "zstd":
        compressors.insert(0, ZstdCodec(level=_ZSTD_LEVEL))
    elif layout.codec != "none":
        shuffle = layout.codec.removeprefix("blosc-")
        compressors.insert(0, BloscCodec(cname="lz4", shuffle=shuffle))
    return zarr.create_array(
        store,
        name=array.name,
        shape=(views, rows, *array.shape),
        dtype=array.dtype,
        shards=(views, layout.rows_per_shard, *array.shape),
        chunks=(1, layout.rows_per_chunk, *array.shape),
        compressors=compressors,
        fill_value=_INT8_HOLE if array.dtype == "int8" else float("nan"),
        dimension_names=array.dimensions,
        attributes=attributes,
        zarr_format=3,
        # Zarr would drop a chunk that equals the fill value; here a chunk that was written exists.
        config={"write_empty_chunks": True},
    )


def _group_attributes(spec: CacheSpec) -> dict[str, Any]:
    return {
        "title": f"Feature cache {spec.id}",
        "description": (
            "Embeddings of images by a frozen teacher model. Axis `view`: views of each image; "
            "`content` says how they were made. Axis `image`: rows; rows/*.parquet name the image "
            "of each row by a hash of its bytes. Rows without an image are NaN in floating-point "
            "arrays, and -128 with a scale of NaN in int8 arrays."
        ),
        "content": spec.content,
    }


def _array_attributes(array: ArraySpec) -> dict[str, Any]:
    if array.name != array.kind:
        return {"description": f"multiply the int8 rows of {array.kind} by these scales"}
    said: dict[str, Any] = {"description": "embeddings as the teacher gave them"}
    if array.dtype == "int8":
        said = {"description": "int8 embeddings", "scales": array.name + SCALE_SUFFIX}
    if array.grid is not None:
        said["grid"] = list(array.grid)
    return said
