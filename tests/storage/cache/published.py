"""What a cache tells of itself to readers without this package."""

import io
import json
import re

import polars as pl

from storage.cache import FeatureCache


def stored_rows(cache: FeatureCache) -> dict[str, int]:
    """Return the row of every image that can be read, as the README of a cache says to find it."""

    def records(folder: str) -> list[dict]:
        paths = cache.root.list(f"{cache.base}/{folder}")
        ours = [path for path in paths if re.fullmatch(r".*/(rows|commits)/\d+\.json", path)]
        return [json.loads(cache.root.read(path)) for path in ours]

    tables = [
        pl.read_parquet(io.BytesIO(cache.root.read(f"{cache.base}/rows/{r['table']['file']}")))
        for r in records("rows")
    ]
    done = [record["shard"] for record in records("commits")]
    rows = pl.concat(tables).filter((pl.col("row") // cache.layout.rows_per_shard).is_in(done))
    return dict(rows.unique("key", keep="last", maintain_order=True).rows())
