"""A quick look at a dataset: how many photos, and how many of them are known. None is opened."""

from dataclasses import dataclass

import polars as pl

from storage.images import Manifest, SourceConfig, draws_splits, open_reader, without_changed
from storage.root import Root

_SAMPLES = 32


@dataclass(frozen=True)
class Listing:
    """What a listing tells about a dataset."""

    photos: int
    train: int
    sample: tuple[str, ...]
    """A few uris, from all over the dataset."""
    previous: Manifest | None
    """The last index of the dataset, made with the same settings."""
    exact: bool
    """Whether nothing has changed since then; otherwise copies count twice, and splits about."""

    def count(self, split: str | None) -> int:
        return self.photos if split is None else self.train


def list_photos(root: Root, source: SourceConfig) -> Listing:
    """List a dataset and compare it with its last index.

    Raises:
        SourceError: if the source is missing, or holds no images.
    """
    entries = open_reader(source).entries()
    sample = tuple(entries["uri"].gather_every(max(1, entries.height // _SAMPLES)).to_list())
    previous = Manifest.latest(root, source.name)
    if previous is not None:
        previous = without_changed(root, previous) if previous.source == source else None
    if previous is not None and _is_unchanged(entries, previous):
        train = len(previous.keys("train"))
        return Listing(previous.table.height, train, sample, previous, exact=True)
    count = min(entries.height, source.max_images or entries.height)
    given = entries["split"].drop_nulls()
    if draws_splits(entries["split"], source.test_share):
        given = given.clear()
    drawn = (entries.height - len(given)) * (1 - source.test_share)
    share = (int((given == "train").sum()) + drawn) / max(entries.height, 1)
    return Listing(count, round(share * count), sample, previous, exact=False)


def _is_unchanged(entries: pl.DataFrame, previous: Manifest) -> bool:
    names = ["uri", "bytes", "modified"]
    known = (previous.table, previous.duplicates, previous.left_out)
    indexed = pl.concat([table.select(names) for table in known])
    # What cannot be read is listed every time, and never indexed.
    readable = entries.join(previous.quarantine, on="uri", how="anti")
    both = readable.join(indexed, on=names, how="semi").height
    return both == readable.height == indexed.height
