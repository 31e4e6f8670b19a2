"""Where images come from: one description, one way to list and read them."""

import fnmatch
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import BaseModel, Field

from storage.errors import SourceError
from storage.root import open_root

IMAGE_SUFFIXES = (
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
ENTRY_SCHEMA = {
    "uri": pl.String,
    "bytes": pl.Int64,
    "modified": pl.Int64,
    "label": pl.String,
    "split": pl.String,
}
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "val", "valid", "validation", "eval", "dev"), "test"),
}


class SourceConfig(BaseModel, frozen=True, extra="forbid"):
    """A set of images."""

    name: str = Field(min_length=1, description="dataset name, part of every id made from it")
    uri: str = Field(
        min_length=1,
        description="image folder, CSV or Parquet of URIs, Parquet with image bytes, *.tar or "
        "*.parquet; local or s3://",
    )
    label_column: str | None = Field(None, description="column of labels; None: `label` if there")
    uri_column: str | None = Field(None, description="column of paths; None: the usual names")
    split_column: str | None = Field(None, description="column of splits; None: `split` if there")
    image_column: str | None = Field(None, description="column of bytes; None: the usual names")
    labels: Literal["folders", "none", "auto"] = Field(
        "auto", description="auto: class folders or a label column where there are any"
    )
    include: tuple[str, ...] = Field((), description="keep paths that match one of these globs")
    max_images: int | None = Field(None, ge=1, description="keep this many, chosen by content")
    test_share: float = Field(
        0.2, ge=0, lt=1, description="share put into test where no split is given"
    )
    max_unreadable_share: float = Field(
        0.05, ge=0, le=1, description="stop when more images than this cannot be read"
    )
    check: Literal["decode", "header"] = Field(
        "decode", description="how an image is found readable: all of it, or its header only"
    )


class ImageReader(ABC):
    """Lists and reads the images of a source. Reading is thread-safe; can be pickled."""

    def __init__(self, source: SourceConfig) -> None:
        self.source = source

    @abstractmethod
    def entries(self) -> pl.DataFrame:
        """One row per image by `ENTRY_SCHEMA`, ordered by uri; label and split may be null."""

    @abstractmethod
    def read(self, uri: str) -> bytes:
        """The encoded image. Raises MissingObjectError."""


def open_source(source: SourceConfig) -> ImageReader:
    """The reader that fits a source.

    Raises:
        SourceError: if there is nothing at its uri, or it is nothing that can be read.
    """
    from storage._embedded import EmbeddedReader, embeds_images
    from storage._files import matching_files
    from storage._folder import FolderReader
    from storage._table import TableReader
    from storage._tar import TarReader
    from storage.synthetic import SCHEME, SyntheticReader

    if source.uri.startswith(SCHEME):
        return SyntheticReader(source)
    suffix = "." + source.uri.lower().rsplit(".", 1)[-1]
    is_many = is_glob(source.uri)
    if suffix == ".tar":
        return TarReader(source)
    if suffix in (".csv", ".tsv"):
        return TableReader(source)
    if suffix == ".parquet":
        root, files = matching_files(source, suffix)
        if is_many or embeds_images(root, next(iter(files))):
            return EmbeddedReader(source)
        return TableReader(source)
    if is_many:
        raise SourceError(f"{source.uri} must end in .tar or .parquet. Or name its folder.")
    return FolderReader(source)


def is_glob(uri: str) -> bool:
    """Whether a uri names many things by wildcards; not if something has exactly this name."""
    if not any(c in uri for c in "*?["):
        return False
    if uri.startswith("s3://"):
        folder, _, name = uri.rstrip("/").rpartition("/")
        return not open_root(folder).exists(name)
    return not Path(uri).expanduser().exists()


def included(path: str, source: SourceConfig) -> bool:
    """Whether a path is wanted: not hidden, and matching ``include`` where that is given."""
    hidden = any(part.startswith(".") for part in path.split("/"))
    return not hidden and matches(path, source)


def matches(path: str, source: SourceConfig) -> bool:
    """Whether a path matches ``include``, where that is given."""
    return not source.include or any(fnmatch.fnmatch(path, glob) for glob in source.include)


def split_of(name: str | None) -> str | None:
    """ "train" or "test" for the usual names of splits, None for anything else."""
    return SPLIT_NAMES.get(name.strip().lower()) if name else None


def known_splits(names: pl.Series, where: str) -> pl.Series:
    """ "train" or "test" for each of the usual names, null where nothing is given.

    Raises:
        SourceError: if there are other names.
    """
    words = names.cast(pl.String).str.strip_chars().str.to_lowercase()
    found = words.replace_strict(SPLIT_NAMES, default=None, return_dtype=pl.String)
    unknown = names.filter(found.is_null() & words.is_not_null() & (words != ""))
    if len(unknown):
        first = ", ".join(repr(str(name)) for name in unknown.unique(maintain_order=True)[:3])
        raise SourceError(
            f"{where} names splits that are not known: {first}. Write {', '.join(SPLIT_NAMES)} or "
            "nothing there, or name another split_column."
        )
    return found


def pick_column(columns: list[str], wanted: str | None, usual: tuple[str, ...], what: str) -> str:
    """The column asked for, or the first of the usual names.

    Raises:
        SourceError: if there is none; names the columns there are.
    """
    for name in (wanted,) if wanted else usual:
        if name in columns:
            return name
    asked = f"no column {wanted!r}" if wanted else f"none of {', '.join(usual)}"
    raise SourceError(
        f"{what} has {asked}; its columns are {', '.join(columns)}. Name the right one."
    )


def optional_column(columns: list[str], wanted: str | None, usual: str, what: str) -> str | None:
    """The column asked for (which must be there), or the usual one if it is there."""
    if wanted is None:
        return usual if usual in columns else None
    return pick_column(columns, wanted, (), what)
