import polars as pl

from storage.keys import as_series, distinct, keys_digest, present, rows_of
from storage.testing import some_keys


def test_rows_are_found_in_any_order_and_missing_ones_are_null():
    names = some_keys(50)
    table = pl.DataFrame({"key": names, "row": range(100, 150)})
    assert rows_of(as_series(names), table).to_list() == list(range(100, 150))
    asked = as_series(["absent", *names[::-1], names[3]])
    assert rows_of(asked, table).to_list() == [None, *range(149, 99, -1), 103]
    assert present(asked, as_series(names)).to_list() == [False] + [True] * 51


def test_keys_that_share_a_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(pl.Series, "hash", lambda self: pl.Series([7] * len(self), dtype=pl.UInt64))
    table = pl.DataFrame({"key": ["a", "b"], "row": [0, 1]})
    assert rows_of(as_series(["b", "c", "a"]), table).to_list() == [1, None, 0]
    assert rows_of(as_series(["c"]), table.head(1)).to_list() == [None]
    assert distinct(as_series(["a", "b", "a"])).to_list() == ["a", "b"]


def test_a_digest_of_keys_tells_which_they_are_and_in_which_order():
    names = some_keys(5)
    found = keys_digest(names)
    assert keys_digest(as_series(names)) == found
    assert found not in (keys_digest(names[::-1]), keys_digest(names[:4]))
