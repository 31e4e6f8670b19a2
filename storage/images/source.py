"""Where images come from: one description, one interface to list and read them."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import polars as pl
from pydantic import BaseModel, Field

from storage.errors import SourceError
from tintem_pixels import SUFFIXES

IMAGE_SUFFIXES = tuple(sorted(SUFFIXES))
IMAGE_KINDS = f".jpg, .png, .tif, .webp and {len(IMAGE_SUFFIXES) - 4} more suffixes of images"
MOST_BYTES = 2**30
"""A file that is larger is no photo, and is not read into memory."""
TOO_LARGE = "larger than 1 GiB"
ENTRY_SCHEMA = {
    "uri": pl.String,
    "bytes": pl.Int64,
    "modified": pl.Int64,
    "label": pl.String,
    "split": pl.String,
}


class SourceConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A set of images."""

    name: str = Field(min_length=1, description="dataset name, part of every id made from it")
    uri: str = Field(
        min_length=1,
        description="image folder, CSV or Parquet of URIs, Parquet with image bytes, *.tar or "
        "*.parquet; local or s3://; a local folder written by save_to_disk (datasets)",
    )
    label_column: str | None = Field(
        None,
        description="column of labels, in a tar cls, txt or a key of the JSON; None: `label`, and "
        "cls, if there",
    )
    uri_column: str | None = Field(None, description="column of paths; None: the usual names")
    split_column: str | None = Field(None, description="column of splits; None: `split` if there")
    image_column: str | None = Field(
        None,
        description="column of bytes, in a tar the extension of the photos (jpg, seg.png); None: "
        "the usual names, in a tar the one image of a sample",
    )
    labels: Literal["folders", "none", "auto"] = Field(
        "auto", description="auto: class folders or a label column where there are any"
    )
    include: tuple[str, ...] = Field((), description="keep paths that match one of these globs")
    max_images: int | None = Field(
        None, ge=1, le=10_000_000_000, description="keep this many, chosen by content"
    )
    test_share: float = Field(
        0.2, ge=0, lt=1, description="share put into test where no split is given"
    )
    max_unreadable_share: float = Field(
        0.05, ge=0, le=1, description="stop when more images than this cannot be read"
    )
    check: Literal["decode", "header"] = Field(
        "decode", description="how an image is found readable: all of it, or its header only"
    )
    bits: int | None = Field(
        None,
        ge=1,
        le=32,
        description="bits in use in grey values stored in more than 8 (12: 0..4095); "
        "None: as the files say",
    )


@dataclass(frozen=True)
class Head:
    """What a bounded look at a source tells."""

    entries: pl.DataFrame
    """By `ENTRY_SCHEMA`; sizes and dates may be zero, as they are not asked for."""
    photos: int
    """How many images there are in all; where the listing is not complete, an estimate by bytes for
    archives, and how many were listed for folders."""
    is_complete: bool
    splits: frozenset[str]
    """The splits that are named anywhere, also beyond the entries listed."""

    @classmethod
    def of(cls, entries: pl.DataFrame) -> "Head":
        """All entries of a source."""
        return cls(entries, entries.height, True, frozenset(entries["split"].drop_nulls()))


class ImageReader(ABC):
    """Lists and reads the images of a source. Reading is thread-safe; can be pickled."""

    def __init__(self, source: SourceConfig) -> None:
        self.source = source
        self.skipped: Counter[str] = Counter()
        """Files that :meth:`entries` did not look at: how many of each suffix, or why."""
        self.conflicting = 0
        """Images that are listed with two labels, and so have none."""

    @abstractmethod
    def entries(self) -> pl.DataFrame:
        """One row per image by `ENTRY_SCHEMA`, ordered by uri; label and split may be null."""

    @abstractmethod
    def read(self, uri: str) -> bytes:
        """The encoded image. Raises MissingObjectError."""

    def head(self, _most: int, /) -> Head:
        """A look at the source that costs little; all of it where a listing is cheap.

        Args:
            _most: about how many entries to look at where each of them costs a request or a read.
        """
        return Head.of(self.entries())

    def columns(self) -> pl.DataFrame:
        """Some rows of what is written beside the images, to choose columns by; may be empty."""
        return pl.DataFrame()

    def notes(self, columns: Sequence[str], _files: int | None = None, /) -> pl.DataFrame:
        """What is written beside the images in some columns, as text.

        Args:
            columns: their names, none of them `uri`.
            _files: how many of the source's files to look into, the first ones; None: all.

        Returns:
            One row per image: its uri, then the columns under the names asked for, null where
            nothing is written, or two different things are.

        Raises:
            SourceError: if the source has no such column; names those it has.
        """
        raise SourceError(
            f"{self.source.uri} has no columns, so none named {columns[0]!r}. List its images in a "
            "CSV or Parquet table of paths that has it, and give the table as uri."
        )
