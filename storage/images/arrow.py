"""Images in Arrow files, as ``save_to_disk`` of Hugging Face's datasets writes them."""

import itertools
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from storage.errors import MissingObjectError, SourceError
from storage.images.labels import LabelColumn, as_notes, as_text, names_in
from storage.images.parquet import USUAL_IMAGE_COLUMNS, holds_bytes
from storage.images.select import (
    file_splits,
    known_splits,
    matching_files,
    optional_column,
    pick_column,
)
from storage.images.source import ENTRY_SCHEMA, ImageReader, SourceConfig
from storage.root import Root

SUFFIX = ".arrow"
STATE, SPLITS = "state.json", "dataset_dict.json"
_ROWS_LOOKED_AT = 10_000


def is_saved_dataset(folder: str) -> bool:
    """Whether a local folder is one that ``save_to_disk`` wrote."""
    return any((Path(folder).expanduser() / name).is_file() for name in (STATE, SPLITS))


class ArrowReader(ImageReader):
    """Uris are ``file.arrow#row``. The files are mapped into memory, not read.

    Of a folder that holds more Arrow files than its state names, the others are caches of the
    library: they are left out.
    """

    def __init__(self, source: SourceConfig) -> None:
        super().__init__(source)
        self._root, self._files = matching_files(source, SUFFIX)
        if self._root.path() is None:
            raise SourceError(
                f"{source.uri} is no folder of this machine, and Arrow files are read by mapping "
                "them: copy it here, or write the data set as Parquet (Dataset.to_parquet)."
            )
        self._files = {p: fact for p, fact in self._files.items() if _is_named(self._root, p)}
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise SourceError(
                f"{source.uri} is read by the package pyarrow: pip install 'tintem[arrow]'."
            ) from error

    @cached_property
    def _tables(self) -> dict[str, Any]:
        return {}

    def read(self, uri: str) -> bytes:
        path, _, row = uri.rpartition("#")
        if path not in self._files:
            raise MissingObjectError(f"{self._root.url} holds no {path}.")
        table = self._table(path)
        column = table[self._image_column(path)]
        value = column[int(row)].as_py() if int(row) < len(column) else None
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise MissingObjectError(f"{self._root.url}/{uri} holds no image bytes.")
        found: bytes = data
        return found

    def entries(self) -> pl.DataFrame:
        splits = file_splits(list(self._files), self.source.uri)
        listed = [self._listed(path, splits[path]) for path in self._files]
        labels = as_text([labels for _, labels in listed])
        return pl.concat(
            entries.with_columns(label=label).select(list(ENTRY_SCHEMA))
            for (entries, _), label in zip(listed, labels, strict=True)
        )

    def columns(self) -> pl.DataFrame:
        """Rows of the first file: bytes as null, so that they are not read, and no lists."""
        path = next(iter(self._files))
        kinds = self._kinds(path)
        plain = [name for name, kind in kinds.items() if not kind.is_nested()]
        plain = [name for name in plain if kinds[name] != pl.Binary]
        rows = self._frame(path, plain).head(_ROWS_LOOKED_AT)
        bytes_in = [name for name, kind in kinds.items() if holds_bytes(kind)]
        return rows.with_columns(pl.lit(None, pl.Binary).alias(name) for name in bytes_in)

    def notes(self, columns: Sequence[str], _files: int | None = None, /) -> pl.DataFrame:
        return pl.concat(
            self._file_notes(path, columns) for path in itertools.islice(self._files, _files)
        )

    def _file_notes(self, path: str, columns: Sequence[str]) -> pl.DataFrame:
        table, where = self._table(path), self._where(path)
        described = (table.schema.metadata or {}).get(b"huggingface", b"{}")
        found = {}
        for name in columns:
            column = pick_column(table.column_names, name, (), where)
            values = self._frame(path, [column])[column]
            found[name] = as_notes(LabelColumn(where, values, names_in(described, column)))
        return pl.DataFrame({"uri": [f"{path}#{row}" for row in range(table.num_rows)], **found})

    def _listed(self, path: str, split: str | None) -> tuple[pl.DataFrame, LabelColumn]:
        import pyarrow.compute as pc

        table, where = self._table(path), self._where(path)
        label = optional_column(table.column_names, self.source.label_column, "label", where)
        in_table = optional_column(table.column_names, self.source.split_column, "split", where)
        label = None if self.source.labels == "none" else label
        images = table[self._image_column(path)]
        if holds_bytes(self._kinds(path)[self._image_column(path)]) and images.type.num_fields:
            images = pc.struct_field(images, "bytes")
        sizes = pc.fill_null(pc.binary_length(images), 0)
        splits = [split] * table.num_rows
        if in_table:
            named = self._frame(path, [in_table])[in_table].cast(pl.String)
            splits = known_splits(named, where).to_list()
        entries = pl.DataFrame(
            {
                "uri": [f"{path}#{row}" for row in range(table.num_rows)],
                "bytes": pl.Series(sizes.to_pylist(), dtype=pl.Int64),
                "modified": [self._files[path].modified] * table.num_rows,
                "split": splits,
            },
            schema={name: dtype for name, dtype in ENTRY_SCHEMA.items() if name != "label"},
        )
        if label is None:
            return entries, LabelColumn(where, pl.Series([None] * table.num_rows, dtype=pl.String))
        described = (table.schema.metadata or {}).get(b"huggingface", b"{}")
        values = self._frame(path, [label])[label]
        return entries, LabelColumn(where, values, names_in(described, label))

    def _table(self, path: str) -> Any:
        import pyarrow as pa

        if path not in self._tables:
            try:
                mapped = pa.memory_map(str(self._root.path(path)))
                self._tables[path] = pa.ipc.open_stream(mapped).read_all()
            except (pa.ArrowInvalid, OSError) as error:
                reason = str(error).partition("\n")[0]
                raise SourceError(
                    f"{self._where(path)} is no readable Arrow stream ({reason}): save the data "
                    "set again with save_to_disk, or leave it out."
                ) from error
        return self._tables[path]

    def _frame(self, path: str, columns: list[str]) -> pl.DataFrame:
        found = pl.from_arrow(self._table(path).select(columns))
        assert isinstance(found, pl.DataFrame)
        return found

    def _kinds(self, path: str) -> dict[str, pl.DataType]:
        empty = pl.from_arrow(self._table(path).slice(0, 0))
        assert isinstance(empty, pl.DataFrame)
        return dict(empty.schema)

    def _image_column(self, path: str) -> str:
        where, kinds = self._where(path), self._kinds(path)
        usual = tuple(n for n in USUAL_IMAGE_COLUMNS if n in kinds and holds_bytes(kinds[n]))
        column = pick_column(
            list(kinds), self.source.image_column, usual or USUAL_IMAGE_COLUMNS, where
        )
        if not holds_bytes(kinds[column]):
            raise SourceError(f"{where}: column {column!r} holds no image bytes. Name another.")
        return column

    def _where(self, path: str) -> str:
        return f"{self._root.url}/{path}"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tables"}


def _is_named(root: Root, path: str) -> bool:
    """Whether a file is part of a data set, as the state beside it says, where there is one."""
    folder, _, name = path.rpartition("/")
    state = f"{folder}/{STATE}" if folder else STATE
    if not root.exists(state):
        return True
    try:
        listed = json.loads(root.read(state)).get("_data_files", [])
    except (ValueError, AttributeError):
        return True
    return name in {each.get("filename") for each in listed}
