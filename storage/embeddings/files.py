"""Embeddings as the file that was asked for: Parquet, an array of NumPy beside its names, or Zarr.

Legend: ``N`` photos, ``K`` width.
"""

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import zarr
from numpy.typing import NDArray

from storage.embeddings.parts import Parts

_ROWS_PER_CHUNK = 4096


def beside(out: Path) -> dict[str, Path]:
    """The other files that may come with one: ``names`` of an .npy, and ``unreadable`` photos."""
    kinds = ("names", "unreadable") if out.suffix == ".npy" else ("unreadable",)
    return {kind: out.with_name(f"{out.name}.{kind}.csv") for kind in kinds}


def write_embeddings(parts: Parts, out: Path, told: Mapping[str, str]) -> tuple[int, pl.DataFrame]:
    """Make the file from its parts; it appears whole, and after those beside it.

    Args:
        parts: some photos with an embedding at least.
        out: ends in one of SUFFIXES.
        told: written into the file, where it has a place for it: a Parquet's metadata, the
            attributes of a Zarr group.

    Returns:
        N; and the photos without an embedding: ``uri`` and ``reason``.
    """
    unreadable = parts.rows().filter(pl.col("key").is_null()).select("uri", "reason").collect()
    count = parts.rows().select(pl.col("key").count()).collect().item()
    others = beside(out)
    if unreadable.height:
        _publish_table(unreadable, others["unreadable"])
    if "names" in others:
        names = parts.rows().filter(pl.col("key").is_not_null()).select(parts.names)
        _publish_table(names.collect(), others["names"])
    part = _aside(out)
    # Of a process that was killed here.
    _remove(part)
    _WRITERS[out.suffix](parts, count, part, told)
    for path in (part, *part.rglob("*")):
        _flush(path)
    part.replace(out)
    _flush(out.parent)
    return count, unreadable


def read_told(out: Path) -> tuple[int, pl.DataFrame]:
    """Return what :func:`write_embeddings` has returned when it wrote a file."""
    if out.suffix == ".parquet":
        count = pl.scan_parquet(out).select(pl.len()).collect().item()
    elif out.suffix == ".npy":
        count = len(np.load(out, mmap_mode="r"))
    else:
        count = zarr.open_array(out / "embedding", mode="r").shape[0]
    table = beside(out)["unreadable"]
    if table.exists():
        return count, pl.read_csv(table)
    return count, pl.DataFrame(schema={"uri": pl.String, "reason": pl.String})


def _parquet(parts: Parts, _count: int, part: Path, told: Mapping[str, str]) -> None:
    found = parts.rows().filter(pl.col("key").is_not_null()).select(*parts.names, "embedding")
    found.sink_parquet(part, maintain_order=True, metadata=dict(told))


def _npy(parts: Parts, count: int, part: Path, _told: Mapping[str, str]) -> None:
    array: NDArray[np.float32] | None = None
    for start, table in _tables(parts):
        rows = table["embedding"].to_numpy()
        if array is None:
            array = np.lib.format.open_memmap(
                part, mode="w+", dtype=np.float32, shape=(count, rows.shape[1])
            )
        array[start : start + len(rows)] = rows


def _zarr(parts: Parts, count: int, part: Path, told: Mapping[str, str]) -> None:
    group = zarr.create_group(part, zarr_format=3, attributes=dict(told))
    width = parts.rows().select("embedding").head(1).collect()["embedding"].to_numpy().shape[1]
    names = [
        group.create_array(
            name,
            shape=(count,),
            chunks=(_ROWS_PER_CHUNK,),
            dtype="float32" if name == "ood_score" else "str",
            dimension_names=("photo",),
        )
        for name in parts.names
    ]
    embedding = group.create_array(
        "embedding",
        shape=(count, width),
        chunks=(_ROWS_PER_CHUNK, width),
        dtype="float32",
        dimension_names=("photo", "feature"),
    )
    for start, table in _tables(parts):
        place = slice(start, start + table.height)
        for array in names:
            array[place] = table[array.basename].to_numpy()
        embedding[place] = table["embedding"].to_numpy()
    with warnings.catch_warnings():
        # xarray looks for consolidated metadata, which Zarr v3 has not specified yet.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(group.store)


_WRITERS = {".parquet": _parquet, ".npy": _npy, ".zarr": _zarr}
SUFFIXES = tuple(_WRITERS)


def _tables(parts: Parts) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield the embedded photos of every part, and how many came before."""
    start = 0
    for path in parts.files():
        table = pl.read_parquet(path).filter(pl.col("key").is_not_null())
        if table.height:
            yield start, table
        start += table.height


def _publish_table(table: pl.DataFrame, path: Path) -> None:
    part = _aside(path)
    table.write_csv(part)
    _flush(part)
    part.replace(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
