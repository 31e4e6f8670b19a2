"""Building a manifest: list a source, inspect what is new, draw splits."""

from collections.abc import Callable

import polars as pl

from storage.errors import SourceError
from storage.images.inspect import LOOK_SCHEMA, inspect
from storage.images.manifest import LIST_SCHEMA, SCHEMA, Manifest
from storage.images.open import open_reader
from storage.images.pictures import distinct_pictures
from storage.images.source import ImageReader, SourceConfig
from storage.root import Reading

_SPLIT_DIGITS = 8
_LOOKED = ("key", "width", "height", "pixels")


def build_manifest(
    source: SourceConfig,
    previous: Manifest | None = None,
    progress: Callable[[int, int], None] | None = None,
    reading: Reading | None = None,
) -> Manifest:
    """List a source and read every image once.

    Args:
        previous: images whose uri, size and date are as in this one are not read again.
        progress: called with (images looked at, images in all).
        reading: see :func:`open_reader`.

    Raises:
        SourceError: if the source is missing, empty, or has too many unreadable images.
    """
    reader = open_reader(source, reading)
    entries = reader.entries()
    seen = _seen(source, previous)
    entries = entries.join(seen, on=["uri", "bytes", "modified"], how="left", maintain_order="left")
    fresh = entries.filter(pl.col("key").is_null())
    done = entries.height - fresh.height
    read = pl.DataFrame(schema=LOOK_SCHEMA)
    for batch in inspect(reader, fresh["uri"], source):
        read.extend(batch)
        done += batch.height
        if progress:
            progress(done, entries.height)
    quarantine = read.filter(pl.col("reason").is_not_null()).select("uri", "reason")
    _refuse_too_many(source, quarantine, entries.height)
    entries = (
        entries.join(read, on="uri", how="left", maintain_order="left", suffix="_read")
        .with_columns(pl.coalesce(name, f"{name}_read") for name in _LOOKED)
        .filter(pl.col("key").is_not_null())
    )
    return _assemble(reader, entries, quarantine)


def _assemble(reader: ImageReader, entries: pl.DataFrame, quarantine: pl.DataFrame) -> Manifest:
    source = reader.source
    table, duplicates, conflicting = distinct_pictures(entries)
    left_out = table.clear()
    if source.max_images is not None and table.height > source.max_images:
        # Not by the digits that the split is drawn from: what is kept would all be test.
        order = table["key"].str.slice(_SPLIT_DIGITS)
        is_kept = order <= order.sort()[source.max_images - 1]
        table, left_out = table.filter(is_kept), table.filter(~is_kept)
    # The key is uniform, so its first digits are a fair draw that never changes for an image.
    digits = pl.col("key").str.slice(0, _SPLIT_DIGITS)
    draw = digits.str.to_integer(base=16, dtype=pl.UInt32) / 16**_SPLIT_DIGITS
    drawn = pl.when(draw < source.test_share).then(pl.lit("test")).otherwise(pl.lit("train"))
    splits_drawn = draws_splits(entries["split"], source.test_share)
    split = drawn if splits_drawn else pl.coalesce("split", drawn)
    table = table.with_columns(split=split).with_row_index("row")
    table = pl.DataFrame({name: table[name].cast(dtype) for name, dtype in SCHEMA.items()})
    duplicates, left_out = (
        pl.DataFrame({name: rows[name].cast(dtype) for name, dtype in LIST_SCHEMA.items()})
        for rows in (duplicates, left_out)
    )
    return Manifest(
        source,
        table,
        quarantine,
        duplicates,
        left_out,
        splits_drawn,
        dict(sorted(reader.skipped.items())),
        reader.conflicting + conflicting,
    )


def draws_splits(given: pl.Series, test_share: float) -> bool:
    """Whether splits are drawn for all images, because the source names one split for them all.

    There would be nothing to test on, or nothing to train on.
    """
    return given.null_count() == 0 and given.n_unique() == 1 and test_share > 0


def _seen(source: SourceConfig, previous: Manifest | None) -> pl.DataFrame:
    """What the previous manifest knows about images that are looked at no less than now."""
    names = ["uri", "bytes", "modified", *_LOOKED]
    if (
        previous is None
        or previous.source.uri != source.uri
        or previous.source.bits != source.bits
        or previous.source.check not in ("decode", source.check)
    ):
        return pl.DataFrame(schema={name: SCHEMA[name] for name in names})
    known = (previous.table, previous.duplicates, previous.left_out)
    rows = pl.concat([table.select(names) for table in known])
    if source.check == "decode":
        # Releases before 0.2 did not look at pixels.
        rows = rows.filter(pl.col("pixels").is_not_null())
    # Zeros stand for unknown: a file of which neither size nor date is known may have changed.
    return rows.filter((pl.col("bytes") != 0) | (pl.col("modified") != 0))


def _refuse_too_many(source: SourceConfig, quarantine: pl.DataFrame, total: int) -> None:
    if quarantine.height <= source.max_unreadable_share * total:
        return
    first = "; ".join(f"{row['uri']}: {row['reason']}" for row in quarantine.head(3).to_dicts())
    raise SourceError(
        f"{source.uri}: {quarantine.height} of {total} images cannot be read ({first}). "
        "Mend them, or raise max_unreadable_share."
    )
