"""Images inside Parquet files, as Hugging Face lays them out: a struct {bytes, path} per row."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from storage.copies import CopyFolder
from storage.errors import MissingObjectError, SourceError
from storage.images.labels import LabelColumn, as_notes, as_text, class_names
from storage.images.pack import packed, packed_bytes, packed_image
from storage.images.select import (
    file_splits,
    known_splits,
    matching_files,
    optional_column,
    pick_column,
)
from storage.images.source import ENTRY_SCHEMA, ImageReader, SourceConfig
from storage.root import Reading, Root

USUAL_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "bytes")
# A block costs little more than one image where images are wanted at random; blocks that are
# wanted one after the other are read many at once, as each time costs a whole row group.
_BLOCK_BYTES = 2 * 2**20
_BLOCKS_AHEAD = 16
_KEPT_BYTES = 256 * 2**20
_ROWS_LOOKED_AT = 10_000


class ParquetReader(ImageReader):
    """Uris are ``file.parquet#row``.

    Local files are read in blocks of rows, the latest of which are kept. A remote file would be
    fetched again for every block: its images are unpacked once, into the folder of copies.
    """

    def __init__(self, source: SourceConfig, reading: Reading | None = None) -> None:
        """Open the files of a source.

        Args:
            reading: which folder of copies to use, opened when the first remote image is read.
        """
        super().__init__(source)
        self._reading = reading or Reading()
        self._root, self._files = matching_files(source, ".parquet")
        self._open()

    def _open(self) -> None:
        # Many threads want the same block at once: one of them reads it.
        self._locks = {path: threading.Lock() for path in self._files}
        self._blocks = _Blocks()
        self._block_rows: dict[str, int] = {}
        self._unpacking = threading.Lock()
        self._unpacked: set[str] = set()

    @cached_property
    def _copies(self) -> CopyFolder:
        return CopyFolder.of(self._reading)

    def read(self, uri: str) -> bytes:
        path, _, row = uri.rpartition("#")
        if path not in self._files:
            raise MissingObjectError(f"{self._root.url} holds no {path}.")
        local = self._root.path(path)
        data = self._fetched(path, int(row)) if local is None else self._read(local, path, int(row))
        if not data:
            raise MissingObjectError(f"{self._root.url}/{uri} holds no image bytes.")
        return data

    def _read(self, local: Path, path: str, row: int) -> bytes | None:
        with self._locks[path], _translate_errors(self._where(path)):
            if path not in self._block_rows:
                height = pl.scan_parquet(local, glob=False).select(pl.len()).collect().item()
                rows = _BLOCK_BYTES * height // self._files[path].bytes
                self._block_rows[path] = max(1, rows)
            block, place = divmod(row, self._block_rows[path])
            images = self._blocks.get((path, block))
            if images is None:
                images = self._read_blocks(path, local, block)
        data: bytes | None = images[place] if place < len(images) else None
        return data

    def _read_blocks(self, path: str, local: Path, block: int) -> pl.Series:
        rows = self._block_rows[path]
        follows = self._blocks.get((path, block - 1)) is not None
        wanted = slice(block * rows, (block + (_BLOCKS_AHEAD if follows else 1)) * rows)
        images = self._images(path, local, wanted)
        # The wanted one last, so that it is the latest.
        for ahead in reversed(range(max(1, -(-len(images) // rows)))):
            part = images.slice(ahead * rows, rows)
            self._blocks.put((path, block + ahead), part)
        return part

    def _fetched(self, path: str, row: int) -> bytes:
        fact, column = self._files[path], self.source.image_column or ""
        name = f"{self._where(path)}#{column}#{fact.bytes}#{fact.modified}"
        while True:
            try:
                if name not in self._unpacked:
                    self._unpack(path, name)
                return packed_image(self._copies.path(name), row)
            except FileNotFoundError:
                # Another process dropped the copy to keep its own limit.
                self._unpacked.discard(name)

    def _unpack(self, path: str, name: str) -> None:
        copy = self._copies.path(name)
        # One at a time, as a file is in memory three times meanwhile.
        with self._unpacking:
            if name in self._unpacked:
                return
            if not (copy.exists() and self._copies.has(name, packed_bytes(copy))):
                with _translate_errors(self._where(path)):
                    images = self._images(path, self._root.read(path))
                self._copies.put(name, packed(images))
            self._unpacked.add(name)

    def entries(self) -> pl.DataFrame:
        splits = file_splits(list(self._files), self.source.uri)
        listed = [self._file_entries(path, splits[path]) for path in self._files]
        labels = as_text([labels for _, labels in listed])
        parts = [
            entries.with_columns(label=label).select(list(ENTRY_SCHEMA))
            for (entries, _), label in zip(listed, labels, strict=True)
        ]
        return pl.concat(parts)

    def columns(self) -> pl.DataFrame:
        """Rows of the first file: bytes as null, so that they are not read, and no lists."""
        path = next(iter(self._files))
        with _translate_errors(self._where(path)):
            file = pl.scan_parquet(self._root.path(path) or self._root.read(path), glob=False)
            schema = file.collect_schema()
            plain = [name for name, kind in schema.items() if not kind.is_nested()]
            kept = file.select(n for n in plain if schema[n] != pl.Binary).head(_ROWS_LOOKED_AT)
            bytes_in = {
                n: pl.lit(None, pl.Binary) for n, kind in schema.items() if holds_bytes(kind)
            }
            return kept.collect().with_columns(**bytes_in)

    def notes(self, columns: Sequence[str], _files: int | None = None, /) -> pl.DataFrame:
        return pl.concat(
            self._file_notes(path, columns) for path in itertools.islice(self._files, _files)
        )

    def _file_notes(self, path: str, columns: Sequence[str]) -> pl.DataFrame:
        where = self._where(path)
        with _translate_errors(where):
            data = self._root.path(path) or self._root.read(path)
            file = pl.scan_parquet(data, glob=False)
            there = file.collect_schema().names()
            stored = {name: pick_column(there, name, (), where) for name in columns}
            table = file.select(pl.col(set(stored.values()))).collect()
        found = {
            name: as_notes(LabelColumn(where, table[column], class_names(data, column)))
            for name, column in stored.items()
        }
        return pl.DataFrame({"uri": [f"{path}#{row}" for row in range(len(table))], **found})

    def _file_entries(self, path: str, split: str | None) -> tuple[pl.DataFrame, LabelColumn]:
        with _translate_errors(self._where(path)):
            return self._listed(path, self._root.path(path) or self._root.read(path), split)

    def _listed(
        self, path: str, data: Path | bytes, split: str | None
    ) -> tuple[pl.DataFrame, LabelColumn]:
        file, where = pl.scan_parquet(data, glob=False), self._where(path)
        schema = file.collect_schema()
        names = schema.names()
        image = self._image_column(path, schema)
        label = optional_column(names, self.source.label_column, "label", where)
        in_table = optional_column(names, self.source.split_column, "split", where)
        label = None if self.source.labels == "none" else label
        table = file.select(
            bytes=_bytes_of(image, schema).bin.size().cast(pl.Int64).fill_null(0),
            label=pl.col(label) if label else pl.lit(None, pl.String),
            split=pl.col(in_table).cast(pl.String) if in_table else pl.lit(None, pl.String),
        ).collect()
        splits = known_splits(table["split"], where) if in_table else [split] * len(table)
        entries = pl.DataFrame(
            {
                "uri": [f"{path}#{row}" for row in range(len(table))],
                "bytes": table["bytes"],
                "modified": [self._files[path].modified] * len(table),
                "split": splits,
            },
            schema={name: dtype for name, dtype in ENTRY_SCHEMA.items() if name != "label"},
        )
        return entries, LabelColumn(where, table["label"], class_names(data, label))

    def _images(self, path: str, data: Path | bytes, rows: slice = slice(None)) -> pl.Series:
        file = pl.scan_parquet(data, glob=False)
        schema = file.collect_schema()
        column = _bytes_of(self._image_column(path, schema), schema)
        # Left as polars makes it: turning a block into Python's bytes would copy all its images.
        return file.select(column.alias("bytes"))[rows].collect()["bytes"]

    def _image_column(self, path: str, schema: pl.Schema) -> str:
        where = self._where(path)
        usual = tuple(
            name for name in USUAL_IMAGE_COLUMNS if name in schema and holds_bytes(schema[name])
        )
        column = pick_column(
            schema.names(), self.source.image_column, usual or USUAL_IMAGE_COLUMNS, where
        )
        if not holds_bytes(schema[column]):
            raise SourceError(f"{where}: column {column!r} holds no image bytes. Name another.")
        return column

    def _where(self, path: str) -> str:
        return f"{self._root.url}/{path}"

    def __getstate__(self) -> dict[str, Any]:
        left = ("_locks", "_blocks", "_block_rows", "_unpacking", "_unpacked", "_copies")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


class _Blocks:
    """Images of blocks of rows; the least recently used go first above a number of bytes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], pl.Series] = OrderedDict()
        self._bytes = 0

    def get(self, block: tuple[str, int]) -> pl.Series | None:
        with self._lock:
            if block in self._kept:
                self._kept.move_to_end(block)
            return self._kept.get(block)

    def put(self, block: tuple[str, int], images: pl.Series) -> None:
        with self._lock:
            if block not in self._kept:
                self._kept[block] = images
                self._bytes += int(images.estimated_size())
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= int(self._kept.popitem(last=False)[1].estimated_size())


def holds_bytes(dtype: pl.DataType) -> bool:
    """Whether a column is binary, or a struct with a binary ``bytes``."""
    if isinstance(dtype, pl.Struct):
        return any(f.name == "bytes" and f.dtype == pl.Binary for f in dtype.fields)
    return dtype == pl.Binary


def embeds_images(root: Root, path: str) -> bool:
    """Whether a Parquet file holds image bytes rather than paths. Raises SourceError."""
    with _translate_errors(f"{root.url}/{path}"):
        schema = pl.scan_parquet(root.path(path) or root.read(path), glob=False).collect_schema()
    return any(holds_bytes(dtype) for dtype in schema.values())


@contextmanager
def _translate_errors(where: str) -> Iterator[None]:
    """Raise what polars says about a file as a SourceError with a cure."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise SourceError(
            f"{where} is no readable Parquet ({reason}). Fetch it again (git lfs pull, if it is a "
            "Git LFS pointer), or leave it out."
        ) from error


def _bytes_of(column: str, schema: pl.Schema) -> pl.Expr:
    whole = pl.col(column)
    return whole.struct.field("bytes") if isinstance(schema[column], pl.Struct) else whole
