"""Files of embeddings: a Parquet table of names and embeddings, or an .npy file beside the names.

Legend: ``B`` rows, ``D`` width.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from storage.errors import StorageInputError
from storage.identity import file_digest
from storage.images import USUAL_URI_COLUMNS, read_text_table
from tintem_core.errors import InputError

_NAMES = ("key", *USUAL_URI_COLUMNS)
_EMBEDDINGS = (
    "embedding", "embeddings", "latent", "latents", "feature", "features", "vector", "emb",
)  # fmt: skip


class TableFile(Protocol):
    """Rows of embeddings, read as they are asked for."""

    @property
    def width(self) -> int:
        """D, of the first row."""

    def other_widths(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Return which of some rows are of another width, or missing: (stop - start,)."""

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return some rows: (stop - start, D)."""


class NpyFile:
    """An array (N, D) that is never in memory as a whole."""

    def __init__(self, path: str) -> None:
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(
                f"teacher.latents: {path} is no readable .npy file ({error}): save an array of "
                "floats with numpy.save."
            ) from error
        if array.ndim != 2 or not all(array.shape):
            raise InputError(
                f"teacher.latents: {path} holds an array of shape {array.shape}: give one row per "
                "photo, (N, D)."
            )
        _refuse_other_numbers(path, array.dtype.name, is_float=array.dtype.kind == "f")
        self._array = array
        self.width = int(array.shape[1])

    def __len__(self) -> int:
        return len(self._array)

    def other_widths(self, start: int, stop: int) -> NDArray[np.bool_]:
        return np.zeros(stop - start, bool)

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        return np.asarray(self._array[start:stop], np.float32)


class ParquetFile:
    """A column of lists or fixed-size arrays, read a stretch of rows at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._table = pl.scan_parquet(path, glob=False)
            schema = self._table.collect_schema()
        except pl.exceptions.PolarsError as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"teacher.latents: {path} is no readable Parquet file ({reason}): give Parquet or "
                ".npy."
            ) from error
        self._column = _embedding_column(path, schema)
        inner = getattr(schema[self._column], "inner", None)
        _refuse_other_numbers(path, str(inner), is_float=inner is not None and inner.is_float())
        first = self._values(0, 1)
        if first.is_empty() or first.null_count():
            raise InputError(f"teacher.latents: {path} has no embedding in its first row.")
        self.width = len(first[0])
        self.names = self._table.select(_name_column(path, schema)).collect().to_series()

    def other_widths(self, start: int, stop: int) -> NDArray[np.bool_]:
        widths = self._values(start, stop).list.len()
        other: NDArray[np.bool_] = (widths != self.width).fill_null(True).to_numpy()
        return other

    def rows(self, start: int, stop: int) -> NDArray[np.float32]:
        values = self._values(start, stop)
        is_right = values.list.len() == self.width
        blank = pl.Series([[float("nan")] * self.width], dtype=values.dtype)
        values = values.zip_with(is_right.fill_null(False), blank)
        return np.asarray(values.cast(pl.Array(pl.Float32, self.width)).to_numpy(), np.float32)

    def _values(self, start: int, stop: int) -> pl.Series:
        read = self._table.slice(start, stop - start).select(self._column).collect().to_series()
        return read.arr.to_list() if isinstance(read.dtype, pl.Array) else read


def open_latents_file(path: str, names_path: str | None) -> tuple[TableFile, pl.Series, list[str]]:
    """Open embeddings and the names of their rows.

    Returns:
        The rows, their names, and the digests of the files.

    Raises:
        InputError: if that is not what they hold, or they do not belong together.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        if names_path is None:
            raise InputError(
                f"teacher.latents_names is missing: {path} does not say which row is which photo. "
                "Give a text, CSV or Parquet file of keys or uris in the order of the rows."
            )
        array, names = NpyFile(path), _read_names(names_path)
        if len(array) != len(names):
            raise InputError(
                f"teacher.latents_names: {names_path} names {len(names):,} rows, {path} has "
                f"{len(array):,}: give one name per row."
            )
        return array, names, [file_digest(path), file_digest(names_path)]
    if suffix != ".parquet":
        raise InputError(f"teacher.latents: {path} is no .parquet or .npy file: write one.")
    if names_path is not None:
        raise InputError(
            f"teacher.latents_names goes with an .npy file: {path} names its photos in a column."
        )
    table = ParquetFile(path)
    return table, _as_names(path, table.names), [file_digest(path)]


def _read_names(path: str) -> pl.Series:
    suffix = Path(path).suffix.lower()
    try:
        if suffix == ".parquet":
            table = pl.read_parquet(path)
        elif suffix in (".csv", ".tsv"):
            table = read_text_table(Path(path).read_bytes(), path, path)
        else:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
            return _as_names(path, pl.Series(lines, dtype=pl.String))
    except (pl.exceptions.PolarsError, UnicodeDecodeError, StorageInputError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"teacher.latents_names: {path} cannot be read ({reason}).") from error
    column = table.columns[0] if table.width == 1 else _name_column(path, table.schema)
    return _as_names(path, table[column])


def _as_names(path: str, names: pl.Series) -> pl.Series:
    text = names.cast(pl.String).str.strip_chars()
    unnamed = text.is_null() | (text == "")
    if len(text) == 0 or unnamed.any():
        raise InputError(
            f"{path}: {int(unnamed.sum()):,} of {len(text):,} latents have no key or uri: name "
            "every row."
        )
    return text


def _name_column(path: str, schema: pl.Schema) -> str:
    found = [name for name in _NAMES if name in schema and schema[name] == pl.String]
    if not found:
        raise InputError(
            f"{path} has no text column key or uri; its columns are {', '.join(schema)}: rename "
            "the one that names the photos."
        )
    return found[0]


def _embedding_column(path: str, schema: pl.Schema) -> str:
    nested = [n for n, kind in schema.items() if isinstance(kind, pl.List | pl.Array)]
    usual = [name for name in _EMBEDDINGS if name in nested]
    if not usual and len(nested) != 1:
        raise InputError(
            f"teacher.latents: {path} has no column embedding of lists or arrays of floats; its "
            f"columns are {', '.join(schema)}: rename the one that holds the embeddings."
        )
    return (usual or nested)[0]


def _refuse_other_numbers(path: str, dtype: str, *, is_float: bool) -> None:
    if not is_float:
        raise InputError(
            f"teacher.latents: the embeddings in {path} are {dtype}: give floats, as the model "
            "gave them."
        )
