"""The README.md inside every cache folder."""

import json

from storage.cache.spec import SCALE_SUFFIX, CacheSpec, Layout


def readme(spec: CacheSpec, layout: Layout) -> str:
    """How a stranger reads this cache in a few lines."""
    name, kind = next(iter(spec.kinds.items()))
    value = f'cache["{name}"][0, row]'
    if kind.dtype == "int8":
        value += f' * cache["{name}{SCALE_SUFFIX}"][0, row]'
    arrays = "\n".join(
        f"- `{n}` (view, image, {', '.join(k.dims)}), {k.dtype}, {spec.views} views, "
        f"{' × '.join(str(size) for size in k.shape)} numbers per image"
        + (f"; a grid of {k.grid[0]} × {k.grid[1]}, row by row" if k.grid else "")
        for n, k in spec.kinds.items()
    )
    return f"""# Feature cache {spec.id}

Embeddings of images by a frozen teacher model, an ordinary Zarr v3 group:

```python
import json, polars, zarr
from pathlib import Path

def records(folder):
    return [json.loads(path.read_bytes()) for path in sorted(Path(folder).glob("[0-9]*.json"))]

done = [record["shard"] for record in records("commits")]
tables = [polars.read_parquet(f"rows/{{record['table']['file']}}") for record in records("rows")]
images = polars.concat(tables).filter((polars.col("row") // {layout.rows_per_shard}).is_in(done))
images = images.unique("key", keep="last", maintain_order=True)

cache = zarr.open_group(".", mode="r")
key, row = images.row(0)
embedding = {value}
```

{arrays}

`view` counts the views of each image; the end of this page says how they were made. `image` is
the row: the tables that `rows/*.json` name hold the image of each row as `key`, the 128-bit
BLAKE2b of the image file's bytes. Of several rows of a key, the last in a finished shard counts.
{_absent(spec)}

A shard file holds {layout.rows_per_shard} images. `commits/` says which shards are done, with the
size and CRC-32 of their files. `xarray.open_zarr(".")` works too.

What the values were made from:

```json
{json.dumps(spec.content, indent=2, ensure_ascii=False, sort_keys=True)}
```
"""


def _absent(spec: CacheSpec) -> str:
    dtypes = {kind.dtype for kind in spec.kinds.values()}
    said = []
    if dtypes - {"int8"}:
        said.append("Rows of NaN hold no image.")
    if "int8" in dtypes:
        said.append(
            "Multiply int8 rows by the scale beside them; a row without an image is -128 "
            "throughout, and its scale is NaN."
        )
    return " ".join(said)
