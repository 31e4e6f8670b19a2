"""Images as files in a folder, local or on S3, with or without class folders."""

import polars as pl

from storage.errors import SourceError
from storage.root import ObjectFacts, open_root
from storage.source import (
    ENTRY_SCHEMA,
    IMAGE_SUFFIXES,
    ImageReader,
    SourceConfig,
    included,
    split_of,
)


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
        facts = self._root.facts()
        found = {
            path: fact
            for path, fact in facts.items()
            if path.lower().endswith(IMAGE_SUFFIXES) and included(path, self.source)
        }
        if not found:
            chosen = f" that match {', '.join(self.source.include)}" if self.source.include else ""
            raise SourceError(
                f"{self.source.uri} holds no images{chosen} (looked for "
                f"{', '.join(IMAGE_SUFFIXES)}). {self._cure(list(facts))}"
            )
        return folder_entries(found, self.source)

    def _cure(self, paths: list[str]) -> str:
        for suffix in (".parquet", ".tar"):
            if any(path.lower().endswith(suffix) for path in paths):
                return f"For its {suffix} files write {self.source.uri.rstrip('/')}/*{suffix}."
        return "Correct the source's uri."


def folder_entries(found: dict[str, ObjectFacts], source: SourceConfig) -> pl.DataFrame:
    """Entries with labels and splits as the folders tell them."""
    parts = [path.split("/") for path in found]
    splits = [split_of(part[0]) if len(part) > 1 else None for part in parts]
    has_splits = all(splits)
    below = [part[1:] if has_splits else part for part in parts]
    labels = [part[0] if len(part) > 1 else None for part in below]
    if source.labels == "folders" and not all(labels):
        loose = next(path for path, label in zip(found, labels, strict=True) if label is None)
        raise SourceError(
            f"{source.uri} has images outside class folders, {loose} first. "
            "Move them into one folder per class, or set labels: none."
        )
    # One folder, or some images beside the folders, is how people sort files, not classes.
    is_labelled = all(labels) and (len(set(labels)) > 1 or source.labels == "folders")
    if source.labels == "none" or not is_labelled:
        labels = [None] * len(parts)
    return pl.DataFrame(
        {
            "uri": list(found),
            "bytes": [fact.bytes for fact in found.values()],
            "modified": [fact.modified for fact in found.values()],
            "label": labels,
            "split": splits if has_splits else [None] * len(parts),
        },
        schema=ENTRY_SCHEMA,
    )
