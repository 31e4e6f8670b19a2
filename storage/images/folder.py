"""Images as files in a folder, local or on S3, with or without class folders."""

import itertools
from collections.abc import Iterator

import polars as pl

from storage.errors import SourceError
from storage.images.select import SPLIT_NAMES, left_out, looked_for
from storage.images.source import (
    ENTRY_SCHEMA,
    MOST_BYTES,
    TOO_LARGE,
    Head,
    ImageReader,
    SourceConfig,
)
from storage.images.tar_stream import COMPRESSED_SUFFIXES
from storage.root import open_root

_BATCH = 100_000
# Each folder of a bucket costs a request of its own in a short listing.
_FOLDERS_LOOKED_AT = 50


class FolderReader(ImageReader):
    """Uris are paths below the folder."""

    def __init__(self, source: SourceConfig) -> None:
        super().__init__(source)
        self._root = open_root(source.uri)
        folder = self._root.path()
        if folder is not None and not folder.is_dir():
            raise SourceError(f"There is no folder {source.uri}. Correct the source's uri.")

    def read(self, uri: str) -> bytes:
        return self._root.read(uri)

    def entries(self) -> pl.DataFrame:
        self.skipped.clear()
        images = self._images()
        files = pl.DataFrame(schema={name: ENTRY_SCHEMA[name] for name in _FILE_COLUMNS})
        # In batches: ten million Python tuples would not fit in memory, their columns do.
        while batch := list(itertools.islice(images, _BATCH)):
            files.extend(pl.DataFrame(batch, schema=files.schema, orient="row"))
        if files.is_empty():
            chosen = f" that match {', '.join(self.source.include)}" if self.source.include else ""
            raise SourceError(
                f"{self.source.uri} holds no images{chosen} {looked_for(self.skipped)}. "
                f"{self._cure()}"
            )
        return _with_labels(files.sort("uri"), self.source)

    def head(self, most: int, /) -> Head:
        if self._root.path() is not None:
            return super().head(most)
        found = list(itertools.islice(self._images(), most))
        is_complete = len(found) < most
        if not is_complete:
            # A bucket lists its folders one after the other: the first may hold `most` images.
            folders = self._root.folders()[:_FOLDERS_LOOKED_AT]
            for folder in folders:
                found += itertools.islice(self._images(f"{folder}/"), most // len(folders))
        schema = {name: ENTRY_SCHEMA[name] for name in _FILE_COLUMNS}
        files = pl.DataFrame(found, schema=schema, orient="row").unique("uri").sort("uri")
        if files.is_empty():
            raise SourceError(f"{self.source.uri} holds no images. {self._cure()}")
        entries = _with_labels(files, self.source)
        splits = frozenset(entries["split"].drop_nulls())
        return Head(entries, files.height, is_complete, splits)

    def _images(self, prefix: str = "") -> Iterator[tuple[str, int, int]]:
        for path, fact in self._root.walk(prefix):
            reason = left_out(path, self.source)
            if reason is None and fact.bytes > MOST_BYTES:
                reason = TOO_LARGE
            if reason is None:
                yield path, fact.bytes, fact.modified
            else:
                self.skipped[reason] += 1

    def _cure(self) -> str:
        for suffix in (".parquet", ".tar"):
            if self.skipped[suffix]:
                return f"For its {suffix} files write {self.source.uri.rstrip('/')}/*{suffix}."
        for suffix, program in COMPRESSED_SUFFIXES.items():
            if self.skipped[suffix]:
                return f"Unpack its {suffix} files with {program} into .tar files first."
        return "Correct the source's uri."


_FILE_COLUMNS = ("uri", "bytes", "modified")


def _with_labels(files: pl.DataFrame, source: SourceConfig) -> pl.DataFrame:
    """Entries with labels and splits as the folders tell them."""
    first, second = (files["uri"].str.extract(f"^{'[^/]+/' * i}([^/]+)/") for i in (0, 1))
    splits = first.str.to_lowercase().replace_strict(SPLIT_NAMES, default=None)
    has_splits = splits.null_count() == 0
    _refuse_some_splits(files["uri"], first, splits, source)
    labels = second if has_splits else first
    if source.labels == "folders" and labels.null_count():
        loose = files["uri"].filter(labels.is_null())[0]
        raise SourceError(
            f"{source.uri} has images outside class folders, {loose} first. "
            "Move them into one folder per class, or set labels: none."
        )
    # One folder, or a few folders beside many loose images, is how people sort files, not classes.
    is_sorted = labels.null_count() < len(labels) / 2 and labels.drop_nulls().n_unique() > 1
    is_labelled = is_sorted or source.labels == "folders"
    nothing = pl.lit(None, pl.String)
    return files.with_columns(
        label=labels if is_labelled and source.labels != "none" else nothing,
        split=splits if has_splits else nothing,
    )


def _refuse_some_splits(
    uris: pl.Series, folders: pl.Series, splits: pl.Series, source: SourceConfig
) -> None:
    """Raises SourceError if some folders are named after splits, and others are not."""
    kinds = splits.drop_nulls().n_unique()
    if not kinds or not splits.null_count():
        return
    # A class or an album may be called train; train and test beside each other are splits.
    is_name = kinds == 1
    if is_name and source.labels != "auto":
        return
    named = ", ".join(folders.filter(splits.is_not_null()).unique().sort())
    other = folders.fill_null(uris).filter(splits.is_null())[0]
    cure = "set labels to folders or none if they are no splits, " if is_name else ""
    raise SourceError(
        f"{source.uri} has folders named after splits ({named}), but also {other}: {cure}rename "
        "them, or write those you want into include (train/*)."
    )
