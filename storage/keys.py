"""Looking up millions of keys in seconds: by 64-bit hashes, then compared in full."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from operator import index
from typing import Any, overload

import polars as pl


class Column(Sequence[Any]):
    """Strings, or None, as compact as in the table they come from; more so when pickled.

    Equal to any sequence of the same strings.
    """

    def __init__(self, values: Sequence[str] | pl.Series) -> None:
        self.series = as_series(values)

    def places(self, wanted: Sequence[str]) -> pl.Series:
        """Where each of some strings is among these, which are distinct; null where it is not."""
        places = pl.int_range(len(self), eager=True)
        return rows_of(as_series(wanted), pl.DataFrame({"key": self.series, "row": places}))

    def __len__(self) -> int:
        return len(self.series)

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> "Column": ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return Column(self.series[place])
        return self.series[index(place)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.series)

    def __contains__(self, value: object) -> bool:
        return value in self.series

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Column):
            return self.series.equals(other.series)
        return isinstance(other, Sequence) and list(self) == list(other)

    def __reduce__(self) -> tuple[Any, ...]:
        data = io.BytesIO()
        self.series.to_frame().write_ipc(data, compression="zstd")
        return _unpacked, (data.getvalue(),)

    __hash__ = None  # type: ignore[assignment]  # as a list, which it equals

    def __repr__(self) -> str:
        return f"Column({self.series.head(3).to_list()}…, {len(self)} in all)"


def _unpacked(data: bytes) -> Column:
    return Column(pl.read_ipc(io.BytesIO(data)).to_series())


def as_series(keys: Sequence[str] | pl.Series) -> pl.Series:
    """Keys as one column of strings."""
    values = keys.series if isinstance(keys, Column) else keys
    return pl.Series("key", values, dtype=pl.String)


def distinct(keys: pl.Series) -> pl.Series:
    """Each key once, where it first comes."""
    if keys.hash().n_unique() == len(keys):
        return keys
    return keys.unique(maintain_order=True)


def rows_of(keys: pl.Series, table: pl.DataFrame) -> pl.Series:
    """The row of each key in a (key, row) table with distinct keys; null where it has none."""
    if keys.equals(table["key"]):
        return table["row"]
    places = pl.int_range(table.height, eager=True)
    known = pl.DataFrame({"hash": table["key"].hash(), "place": places})
    asked = pl.DataFrame({"hash": keys.hash()})
    if known["hash"].n_unique() < known.height:
        # Two keys share a hash: for ten million keys, once in some hundred thousand caches.
        wanted = pl.DataFrame({"key": keys})
        return wanted.join(table, on="key", how="left", maintain_order="left")["row"]
    place = asked.join(known, on="hash", how="left", maintain_order="left")["place"]
    found = pl.DataFrame(
        {"asked": keys, "key": table["key"].gather(place), "row": table["row"].gather(place)}
    )
    is_same = pl.col("asked") == pl.col("key")
    return found.select(row=pl.when(is_same).then("row"))["row"]


def present(keys: pl.Series, among: pl.Series) -> pl.Series:
    """Which keys are among others that are distinct."""
    places = pl.int_range(len(among), eager=True)
    return rows_of(keys, pl.DataFrame({"key": among, "row": places})).is_not_null()


def keys_digest(keys: Sequence[str] | pl.Series) -> str:
    """Which images, in which order: what binds a shard's file to its rows."""
    text = keys.str.join("\n")[0] if isinstance(keys, pl.Series) else "\n".join(keys)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
