"""Images named by a CSV or Parquet table of paths and labels."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import unquote

import numpy as np
import polars as pl

from storage.errors import MissingObjectError, SourceError
from storage.images.labels import LabelColumn, as_notes, as_text
from storage.images.select import known_splits, matches, optional_column, pick_column
from storage.images.source import ENTRY_SCHEMA, MOST_BYTES, TOO_LARGE, ImageReader, SourceConfig
from storage.images.text_table import read_text_table, refuse_web_addresses
from storage.root import Root, clean_path, open_root

USUAL_URI_COLUMNS = ("uri", "url", "path", "image_path", "filepath", "file_path", "file",
                     "filename", "file_name", "image")  # fmt: skip
_PARALLEL_LOOKUPS = 32
_LOOKUPS_AT_ONCE = 100_000


class TableReader(ImageReader):
    """Uris are as the table spells them: relative to the table's folder, absolute, or s3://."""

    def __init__(self, source: SourceConfig) -> None:
        super().__init__(source)
        folder, _, self._name = source.uri.rpartition("/")
        self._root = open_root(folder or ".")

    def read(self, uri: str) -> bytes:
        root, path = self._place(uri)
        return root.read(path)

    def entries(self) -> pl.DataFrame:
        table = self._table()
        source, where = self.source, self.source.uri
        uri_column = pick_column(table.columns, source.uri_column, USUAL_URI_COLUMNS, where)
        label = optional_column(table.columns, source.label_column, "label", where)
        split = optional_column(table.columns, source.split_column, "split", where)
        if source.labels == "none":
            label = None
        uris = _words(table[uri_column], where)
        if uris.null_count():
            raise SourceError(f"{where} has rows without {uri_column}. Remove or fill them.")
        refuse_web_addresses(uris, where)
        labels = table[label] if label else pl.Series("label", [None] * len(uris), pl.String)
        (labels,) = as_text([LabelColumn(where, labels)])
        facts = np.zeros((len(uris), 2), np.int64)
        with ThreadPoolExecutor(_PARALLEL_LOOKUPS) as pool:
            # All at once, the questions that wait for a thread would fill the memory.
            for start in range(0, len(uris), _LOOKUPS_AT_ONCE):
                part = slice(start, start + _LOOKUPS_AT_ONCE)
                facts[part] = list(pool.map(self._facts, uris[part]))
        entries = pl.DataFrame(
            {
                "uri": uris,
                "bytes": facts[:, 0],
                "modified": facts[:, 1],
                "label": labels,
                "split": _words(table[split], where) if split else [None] * len(uris),
            },
            schema=ENTRY_SCHEMA,
        )
        entries = entries.filter([matches(uri, source) for uri in uris])
        self.skipped.clear()
        if large := int((entries["bytes"] > MOST_BYTES).sum()):
            self.skipped[TOO_LARGE] = large
            entries = entries.filter(pl.col("bytes") <= MOST_BYTES)
        if entries.is_empty():
            raise SourceError(f"{where} names no images. Correct the source's uri or include.")
        entries = entries.with_columns(split=known_splits(entries["split"], where))
        given = pl.col("label").drop_nulls()
        labels_of = entries.group_by("uri").agg(
            _the_only("label"), (given.n_unique() > 1).alias("conflict")
        )
        self.conflicting = int(labels_of["conflict"].sum())
        entries = entries.unique("uri", keep="first").drop("label")
        entries = entries.join(labels_of.drop("conflict"), on="uri", how="left")
        return entries.select(list(ENTRY_SCHEMA)).sort("uri")

    def columns(self) -> pl.DataFrame:
        return self._table()

    def notes(self, columns: Sequence[str], _files: int | None = None, /) -> pl.DataFrame:
        table, where = self._table(), self.source.uri
        uris = pick_column(table.columns, self.source.uri_column, USUAL_URI_COLUMNS, where)
        found = {
            name: as_notes(LabelColumn(where, table[pick_column(table.columns, name, (), where)]))
            for name in columns
        }
        rows = pl.DataFrame({"uri": _words(table[uris], where), **found})
        return rows.group_by("uri", maintain_order=True).agg(map(_the_only, columns))

    def _table(self) -> pl.DataFrame:
        try:
            data = self._root.read(self._name)
        except MissingObjectError as error:
            message = f"There is no file {self.source.uri}. Correct the source's uri."
            raise SourceError(message) from error
        try:
            if self._name.lower().endswith(".parquet"):
                return pl.read_parquet(io.BytesIO(data))
            return read_text_table(data, self._name, self.source.uri)
        except pl.exceptions.PolarsError as error:
            message = f"{self.source.uri} is not a readable table ({error})."
            raise SourceError(message) from error

    def _place(self, uri: str) -> tuple[Root, str]:
        if uri.startswith("s3://"):
            folder, _, name = uri.rpartition("/")
            return _open_folder(folder), name
        path = unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri
        if "\\" in path and not self._root.exists(path):
            # Of a table that was written on Windows.
            path = path.replace("\\", "/")
        below = self._root.path()
        if ".." in path.split("/") and below is not None:
            path = os.path.normpath(below / path)
        if path.startswith("/"):
            return _open_folder(str(PurePosixPath(path).parent)), PurePosixPath(path).name
        return self._root, path

    def _facts(self, uri: str) -> tuple[int, int]:
        """Size and date; zeros for a file that is not there, which reading will then report."""
        root, path = self._place(uri)
        local = root.path(path)
        if local is not None and not local.is_file():
            # Of a folder, all files below would be listed.
            return 0, 0
        facts = root.facts(path).get(clean_path(path))
        return (facts.bytes, facts.modified) if facts else (0, 0)


def _words(column: pl.Series, where: str) -> pl.Series:
    """A column as text. Raises SourceError where it holds lists or tables."""
    if column.dtype.is_nested():
        raise SourceError(
            f"{where}: the column {column.name!r} holds {column.dtype} where text is wanted. Name "
            "another column."
        )
    return column.cast(pl.String)


def _the_only(column: str) -> pl.Expr:
    """What all rows of a group say that say anything; null where they differ."""
    given = pl.col(column).drop_nulls()
    return pl.when(given.n_unique() == 1).then(given.first()).alias(column)


@lru_cache(maxsize=4096)
def _open_folder(folder: str) -> Root:
    return open_root(folder)
