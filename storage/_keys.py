"""Looking up millions of keys in seconds: by 64-bit hashes, then compared in full."""

from collections.abc import Sequence

import polars as pl


def as_series(keys: Sequence[str] | pl.Series) -> pl.Series:
    """Keys as one column of strings."""
    return pl.Series("key", keys, dtype=pl.String)


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
