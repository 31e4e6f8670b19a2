"""The images of a run, ordered by content, so that moving a file changes nothing."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import polars as pl

from storage.identity import digest
from storage.manifest import ImageReader, Manifest, open_reader


@dataclass(frozen=True)
class Dataset:
    """A manifest seen by the stages: sorted by content key."""

    manifest: Manifest

    @property
    def name(self) -> str:
        return self.manifest.source.name

    @cached_property
    def _table(self) -> pl.DataFrame:
        return self.manifest.table.sort("key")

    def _select(self, split: str | None) -> pl.DataFrame:
        return self._table if split is None else self._table.filter(pl.col("split") == split)

    def keys(self, split: str | None = None) -> list[str]:
        """Return the content keys of a split, or of all images."""
        return self._select(split)["key"].to_list()

    def uris(self, split: str | None = None) -> list[str]:
        """Return where the images lie, in the order of :meth:`keys`."""
        return self._select(split)["uri"].to_list()

    def without(self, keys: Iterable[str]) -> "Dataset":
        """Return this dataset less some images."""
        unwanted = pl.Series(keys, dtype=pl.String).implode()
        kept = self.manifest.table.filter(~pl.col("key").is_in(unwanted))
        return Dataset(replace(self.manifest, table=kept))

    def labels(self, split: str | None = None) -> list[str | None]:
        """Return the labels, in the order of :meth:`keys`; None where there is none."""
        return self._select(split)["label"].to_list()

    def digest(self, split: str | None = None, *, labels: bool = False) -> str:
        """Return the identity of the images (and of their labels where these matter)."""
        content: list[object] = [self.keys(split)]
        if labels:
            content.append(self.labels(split))
        return digest(content)

    @cached_property
    def reader(self) -> ImageReader:
        """Reads the images by uri."""
        return open_reader(self.manifest)
