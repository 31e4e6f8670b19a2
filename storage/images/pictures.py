"""The same picture in several files: it counts once, with the label that they agree on."""

import polars as pl


def distinct_pictures(entries: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Entries of distinct pictures, the further entries of these pictures, and how many conflict.

    Files of equal bytes, or of equal pixels, are one picture, whose key is the smallest of theirs:
    it then depends neither on names nor on the order in which they came. Its label is the one that
    they have; a picture with several labels has none, and is counted.

    Args:
        entries: with the columns key, pixels and label, pixels null where they are not known.
    """
    by_pixels = pl.when(pl.col("pixels").is_null()).then(pl.col("key").hash())
    picture = entries.select(by_pixels.otherwise("pixels").alias("picture"))["picture"]
    is_shared = picture.is_duplicated()
    if not is_shared.any():
        return entries, entries.clear(), 0
    places = pl.int_range(entries.height, eager=True).alias("place")
    shared = entries.with_columns(picture, places).filter(is_shared)
    labels = pl.col("label").drop_nulls()
    found = shared.group_by("picture").agg(
        pl.col("place").sort_by("key", "place").first(),
        pl.when(labels.n_unique() == 1).then(labels.first()).alias("label"),
        (labels.n_unique() > 1).alias("conflict"),
    )
    kept = found.select("place", pl.lit(True).alias("is_kept"), pl.col("label").alias("agreed"))
    marked = entries.with_columns(places, is_shared.alias("is_shared")).join(
        kept, on="place", how="left", maintain_order="left"
    )
    # Copies keep what is written of them.
    label = pl.when(pl.col("is_kept")).then("agreed").otherwise("label").alias("label")
    is_first = ~marked["is_shared"] | marked["is_kept"].fill_null(False)
    marked = marked.with_columns(label).select(entries.columns)
    return marked.filter(is_first), marked.filter(~is_first), int(found["conflict"].sum())
