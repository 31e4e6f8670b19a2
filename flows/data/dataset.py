"""The images of a run, ordered by content, so that moving a file changes nothing."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import polars as pl

from storage.identity import canonical_json
from storage.images import ImageReader, Manifest, open_reader
from storage.keys import Column
from storage.root import Reading

_SLICE = 100_000


@dataclass(frozen=True)
class Dataset:
    """A manifest seen by the stages: sorted by content key, and as compact as its table."""

    manifest: Manifest
    reading: Reading | None = None
    """How this machine reads its images."""

    @property
    def name(self) -> str:
        return self.manifest.source.name

    @cached_property
    def _order(self) -> pl.Series:
        """Rows of the manifest by content key: a sorted table would be a second one."""
        return self.manifest.table["key"].arg_sort()

    def _select(self, name: str, split: str | None) -> Column:
        table, order = self.manifest.table, self._order
        if split is not None:
            order = order.filter((table["split"] == split).gather(order))
        return Column(table[name].gather(order))

    def keys(self, split: str | None = None) -> Sequence[str]:
        """Return the content keys of a split, or of all images."""
        return self._select("key", split)

    def uris(self, split: str | None = None) -> Sequence[str]:
        """Return where the images lie, in the order of :meth:`keys`."""
        return self._select("uri", split)

    def without(self, keys: Sequence[str]) -> "Dataset":
        """Return this dataset less some images."""
        unwanted = Column(keys).series.implode()
        kept = self.manifest.table.filter(~pl.col("key").is_in(unwanted))
        return replace(self, manifest=replace(self.manifest, table=kept))

    def of_split(self, split: str) -> "Dataset":
        """Return the images of one split."""
        return replace(self, manifest=replace(self.manifest, table=self.manifest.select(split)))

    def without_photos_of(self, other: "Dataset") -> "Dataset":
        """Return this dataset less the pictures of another one, of equal bytes or pixels."""
        theirs, mine = other.manifest.table, self.manifest.table
        shared = mine["key"].is_in(theirs["key"].implode())
        pixels = theirs["pixels"].drop_nulls()
        shared |= mine["pixels"].is_in(pixels.implode()).fill_null(False)
        return replace(self, manifest=replace(self.manifest, table=mine.filter(~shared)))

    def labels(self, split: str | None = None) -> Sequence[str | None]:
        """Return the labels, in the order of :meth:`keys`; None where there is none."""
        return self._select("label", split)

    def notes(self, split: str, columns: Sequence[str]) -> pl.DataFrame:
        """Return what is written beside the images, read from their source.

        Returns:
            A row of text for each of :meth:`keys`, in their order; null where nothing is written.

        Raises:
            SourceError: if there is no such column.
        """
        uris = pl.DataFrame({"uri": self._select("uri", split).series})
        found = self.reader.notes(columns)
        return uris.join(found, on="uri", how="left", maintain_order="left").drop("uri")

    @property
    def is_labelled(self) -> bool:
        """Whether photos of both splits have labels, so that they can be scored by them."""
        return all(self.manifest.select(split)["label"].count() > 0 for split in ("train", "test"))

    def digest(self, split: str | None = None, *, labels: bool = False) -> str:
        """Return the identity of the images (and of their labels where these matter)."""
        columns = [self._select("key", split)]
        if labels:
            columns.append(self._select("label", split))
        content = hashlib.sha256()
        for piece in _canonical_pieces(columns):
            content.update(piece)
        return content.hexdigest()

    @cached_property
    def reader(self) -> ImageReader:
        """Reads the images by uri."""
        return open_reader(self.manifest, self.reading)


def _canonical_pieces(columns: Sequence[Column]) -> Iterator[bytes]:
    """Spell a list of columns as `canonical_json` does, which takes gigabytes for ten million."""
    for i, column in enumerate(columns):
        yield b",[" if i else b"[["
        for start in range(0, len(column), _SLICE):
            part = canonical_json(column.series[start : start + _SLICE].to_list())
            yield b"," * bool(start) + part[1:-1]
        yield b"]"
    yield b"]"
