"""Images inside Parquet files, as Hugging Face lays them out: a struct {bytes, path} per row."""

import io
import json
import threading
from collections import OrderedDict
from typing import Any

import polars as pl

from storage._files import file_splits, matching_files
from storage.errors import MissingObjectError, SourceError
from storage.root import Root
from storage.source import (
    ENTRY_SCHEMA,
    ImageReader,
    SourceConfig,
    known_splits,
    optional_column,
    pick_column,
)

_USUAL = ("image", "img", "jpg", "png", "bytes")
_BLOCK_ROWS = 64
_BLOCKS_KEPT = 32


class EmbeddedReader(ImageReader):
    """Uris are ``file.parquet#row``. Rows are read in blocks, the latest of which are kept."""

    def __init__(self, source: SourceConfig) -> None:
        super().__init__(source)
        self._root, self._files = matching_files(source, ".parquet")
        self._open()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[str, int], list[bytes | None]] = OrderedDict()
        self._remote: tuple[str, bytes] | None = None

    def read(self, uri: str) -> bytes:
        path, _, row = uri.rpartition("#")
        block, place = divmod(int(row), _BLOCK_ROWS)
        with self._lock:
            images = self._blocks.get((path, block))
            if images is None:
                if path not in self._files:
                    raise MissingObjectError(f"{self._root.url} holds no {path}.")
                images = self._read_block(path, block)
                self._blocks[path, block] = images
                if len(self._blocks) > _BLOCKS_KEPT:
                    self._blocks.popitem(last=False)
        data = images[place] if place < len(images) else None
        if data is None:
            raise MissingObjectError(f"{self._root.url}/{uri} holds no image bytes.")
        return data

    def entries(self) -> pl.DataFrame:
        splits = file_splits(list(self._files), self.source.uri)
        parts = [self._file_entries(path, splits[path]) for path in self._files]
        return pl.concat(parts)

    def _file_entries(self, path: str, split: str | None) -> pl.DataFrame:
        file, where = self._scan(path), f"{self._root.url}/{path}"
        schema = file.collect_schema()
        names = schema.names()
        image = self._image_column(path, schema)
        label = optional_column(names, self.source.label_column, "label", where)
        in_table = optional_column(names, self.source.split_column, "split", where)
        label = None if self.source.labels == "none" else label
        table = file.select(
            bytes=_bytes_of(image, schema).bin.size().cast(pl.Int64).fill_null(0),
            label=pl.col(label).cast(pl.String) if label else pl.lit(None, pl.String),
            split=pl.col(in_table).cast(pl.String) if in_table else pl.lit(None, pl.String),
        ).collect()
        named = {str(i): name for i, name in enumerate(self._class_names(path, label))}
        splits = known_splits(table["split"], where) if in_table else [split] * len(table)
        return pl.DataFrame(
            {
                "uri": [f"{path}#{row}" for row in range(len(table))],
                "bytes": table["bytes"],
                "modified": [self._files[path].modified] * len(table),
                "label": table["label"].replace(named),
                "split": splits,
            },
            schema=ENTRY_SCHEMA,
        )

    def _read_block(self, path: str, block: int) -> list[bytes | None]:
        file = self._scan(path)
        schema = file.collect_schema()
        column = _bytes_of(self._image_column(path, schema), schema)
        rows = file.select(column.alias("bytes")).slice(block * _BLOCK_ROWS, _BLOCK_ROWS)
        return rows.collect()["bytes"].to_list()

    def _scan(self, path: str) -> pl.LazyFrame:
        local = self._root.path(path)
        try:
            if local is not None:
                return pl.scan_parquet(local, glob=False)
            if self._remote is None or self._remote[0] != path:
                self._remote = (path, self._root.read(path))
            return pl.scan_parquet(io.BytesIO(self._remote[1]))
        except pl.exceptions.PolarsError as error:
            raise SourceError(f"{self._root.url}/{path} is not readable ({error}).") from error

    def _image_column(self, path: str, schema: pl.Schema) -> str:
        where = f"{self._root.url}/{path}"
        usual = tuple(name for name in _USUAL if name in schema and holds_bytes(schema[name]))
        column = pick_column(schema.names(), self.source.image_column, usual or _USUAL, where)
        if not holds_bytes(schema[column]):
            raise SourceError(f"{where}: column {column!r} holds no image bytes. Name another.")
        return column

    def _class_names(self, path: str, label: str | None) -> list[str]:
        """What Hugging Face writes beside integer labels."""
        local = self._root.path(path)
        source = local if local is not None else io.BytesIO(self._root.read(path))
        try:
            described = json.loads(pl.read_parquet_metadata(source).get("huggingface", "{}"))
        except ValueError:
            return []
        feature: Any = described.get("info", {}).get("features", {}).get(label, {})
        return [str(name) for name in feature.get("names", [])] if isinstance(feature, dict) else []

    def __getstate__(self) -> dict[str, Any]:
        left = ("_lock", "_blocks", "_remote")
        return {name: value for name, value in self.__dict__.items() if name not in left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def holds_bytes(dtype: pl.DataType) -> bool:
    """Whether a column is binary, or a struct with a binary ``bytes``."""
    if isinstance(dtype, pl.Struct):
        return any(f.name == "bytes" and f.dtype == pl.Binary for f in dtype.fields)
    return dtype == pl.Binary


def embeds_images(root: Root, path: str) -> bool:
    """Whether a Parquet file holds image bytes rather than paths. Raises SourceError."""
    local = root.path(path)
    try:
        data = local if local is not None else io.BytesIO(root.read(path))
        schema = pl.scan_parquet(data, glob=False).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"{root.url}/{path} is no readable Parquet ({error}).") from error
    return any(holds_bytes(dtype) for dtype in schema.values())


def _bytes_of(column: str, schema: pl.Schema) -> pl.Expr:
    whole = pl.col(column)
    return whole.struct.field("bytes") if isinstance(schema[column], pl.Struct) else whole
