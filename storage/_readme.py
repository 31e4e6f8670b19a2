"""The README.md inside every cache folder."""

import json

from storage.spec import SCALE_SUFFIX, CacheSpec, Layout


def readme(spec: CacheSpec, layout: Layout) -> str:
    """How a stranger reads this cache in three lines."""
    name, kind = next(iter(spec.kinds.items()))
    value = f'cache["{name}"][0, row]'
    if kind.dtype == "int8":
        value += f' * cache["{name}{SCALE_SUFFIX}"][0, row]'
    arrays = "\n".join(
        f"- `{n}` (view, image, {', '.join(k.dims)}), {k.dtype}, {spec.views} views, "
        f"{' × '.join(str(size) for size in k.shape)} numbers per image"
        for n, k in spec.kinds.items()
    )
    return f"""# Feature cache {spec.id}

Embeddings of images by a frozen teacher model, an ordinary Zarr v3 group:

```python
import polars, zarr
cache = zarr.open_group(".", mode="r")
key, row = polars.read_parquet("rows/*.parquet").row(0)
embedding = {value}
```

{arrays}

`view` 0 is the evaluation view, the others are augmented. `image` is the row: `rows/*.parquet`
name the image of each row by `key`, the 128-bit BLAKE2b of the image file's bytes (where two
tables name a key, the later one counts). Rows that are NaN hold no image. In int8 arrays
multiply by the scale beside them; a row without an image has a NaN scale.

A shard file holds {layout.rows_per_shard} images. `commits/` says which shards are done, with the
size and CRC-32 of their files. `xarray.open_zarr(".")` works too.

What the values were made from:

```json
{json.dumps(spec.content, indent=2, ensure_ascii=False, sort_keys=True)}
```
"""
