"""The manifest: one row per image, identified by its content."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import polars as pl
from PIL import Image, UnidentifiedImageError

from storage._records import seal, unseal
from storage.errors import MissingObjectError, SourceError
from storage.identity import content_key, make_id
from storage.root import Root
from storage.source import ImageReader, SourceConfig, open_source

__all__ = ["ImageReader", "Manifest", "SourceConfig", "build_manifest", "open_reader"]

FOLDER = "manifests"
SCHEMA = {
    "row": pl.UInt32,
    "key": pl.String,
    "uri": pl.String,
    "label": pl.String,
    "split": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
    "bytes": pl.Int64,
    "modified": pl.Int64,
}
_LOOK_SCHEMA = {
    "uri": pl.String,
    "key": pl.String,
    "width": pl.Int32,
    "height": pl.Int32,
    "reason": pl.String,
}
_BATCH = 1024
_SLICE = 100_000
_PARTS = ("", ".quarantine", ".duplicates")


@dataclass(frozen=True)
class Manifest:
    """The images of a source.

    Attributes:
        table: `SCHEMA`; the same content appears once, under the first of its uris.
        quarantine: (uri, reason) of what could not be read.
        duplicates: `SCHEMA` without row; further uris of content that is already in the table.
    """

    source: SourceConfig
    table: pl.DataFrame
    quarantine: pl.DataFrame
    duplicates: pl.DataFrame

    @cached_property
    def id(self) -> str:
        """Dataset name plus digest of which images, where, with which label and split."""
        content = hashlib.sha256()
        for part in self.table.select("key", "uri", "label", "split").iter_slices(_SLICE):
            content.update(part.write_csv(include_header=False).encode())
        return make_id(self.source.name, content.hexdigest())

    @property
    def classes(self) -> list[str]:
        """Labels in order (numbers by value); empty for a label-free source."""
        found = self.table["label"].drop_nulls().unique().to_list()
        numeric = all(name.lstrip("-").isdigit() for name in found)
        return sorted(found, key=int if numeric else None)

    def select(self, split: str | None = None) -> pl.DataFrame:
        """The rows of one split, or all."""
        return self.table if split is None else self.table.filter(pl.col("split") == split)

    def keys(self, split: str | None = None) -> list[str]:
        """Content keys in row order."""
        return self.select(split)["key"].to_list()

    def save(self, root: Root) -> str:
        """Store under ``manifests/<id>``, the record last; returns the id."""
        tables = (self.table, self.quarantine, self.duplicates)
        for part, table in zip(_PARTS, tables, strict=True):
            buffer = io.BytesIO()
            table.write_parquet(buffer)
            root.write(f"{FOLDER}/{self.id}{part}.parquet", buffer.getvalue())
        record = {
            "id": self.id,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "source": self.source.model_dump(mode="json"),
            "images": self.table.height,
            "unreadable": self.quarantine.height,
            "duplicates": self.duplicates.height,
        }
        root.write(f"{FOLDER}/{self.id}.json", seal(record))
        return self.id

    @classmethod
    def load(cls, root: Root, id: str) -> "Manifest":
        """A stored manifest. Raises MissingObjectError."""
        where = f"{FOLDER}/{id}.json"
        record = unseal(root.read(where), f"{root.url}/{where}")
        table, quarantine, duplicates = (
            pl.read_parquet(io.BytesIO(root.read(f"{FOLDER}/{id}{part}.parquet")))
            for part in _PARTS
        )
        source = SourceConfig.model_validate(record["source"])
        return cls(source, table, quarantine, duplicates)

    @classmethod
    def latest(cls, root: Root, name: str) -> "Manifest | None":
        """The newest stored manifest of a dataset name, to build the next one from."""
        records = [
            unseal(root.read(path), f"{root.url}/{path}")
            for path in root.list(FOLDER)
            if path.endswith(".json")
        ]
        named = [record for record in records if record["source"]["name"] == name]
        if not named:
            return None
        return cls.load(root, max(named, key=lambda record: str(record["created"]))["id"])


def open_reader(source: SourceConfig | Manifest) -> ImageReader:
    """Reads the images of a source or manifest by uri. Raises SourceError."""
    return open_source(source.source if isinstance(source, Manifest) else source)


def build_manifest(
    source: SourceConfig,
    previous: Manifest | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """List a source and read every image once.

    Args:
        previous: images whose uri, size and date are as in this one are not read again.
        progress: called with (images looked at, images in all).

    Raises:
        SourceError: if the source is missing, empty, or has too many unreadable images.
    """
    reader = open_source(source)
    entries = reader.entries()
    seen = _seen(previous if previous and previous.source.uri == source.uri else None)
    entries = entries.join(seen, on=["uri", "bytes", "modified"], how="left", maintain_order="left")
    fresh = entries.filter(pl.col("key").is_null())
    done = entries.height - fresh.height
    read = pl.DataFrame(schema=_LOOK_SCHEMA)
    for batch in _inspect(reader, fresh["uri"], source.check):
        read.extend(batch)
        done += batch.height
        if progress:
            progress(done, entries.height)
    quarantine = read.filter(pl.col("reason").is_not_null()).select("uri", "reason")
    _refuse_too_many(source, quarantine, entries.height)
    entries = (
        entries.join(read, on="uri", how="left", maintain_order="left", suffix="_read")
        .with_columns(pl.coalesce(name, f"{name}_read") for name in ("key", "width", "height"))
        .filter(pl.col("key").is_not_null())
    )
    return _assemble(source, entries, quarantine)


def _assemble(source: SourceConfig, entries: pl.DataFrame, quarantine: pl.DataFrame) -> Manifest:
    is_first = entries["key"].is_first_distinct()
    table, duplicates = entries.filter(is_first), entries.filter(~is_first)
    if source.max_images is not None and table.height > source.max_images:
        last = table["key"].sort()[source.max_images - 1]
        table = table.filter(pl.col("key") <= last)
    # The key is uniform, so its first digits are a fair draw that never changes for an image.
    draw = pl.col("key").str.slice(0, 8).str.to_integer(base=16, dtype=pl.UInt32) / 2**32
    drawn = pl.when(draw < source.test_share).then(pl.lit("test")).otherwise(pl.lit("train"))
    table = table.with_columns(split=pl.coalesce("split", drawn)).with_row_index("row")
    table = pl.DataFrame({name: table[name].cast(dtype) for name, dtype in SCHEMA.items()})
    columns = [name for name in SCHEMA if name != "row"]
    return Manifest(source, table, quarantine, duplicates.select(columns))


def _seen(previous: Manifest | None) -> pl.DataFrame:
    names = ["uri", "bytes", "modified", "key", "width", "height"]
    if previous is None:
        return pl.DataFrame(schema={name: SCHEMA[name] for name in names})
    return pl.concat([previous.table.select(names), previous.duplicates.select(names)])


def _inspect(reader: ImageReader, uris: pl.Series, check: str) -> Iterator[pl.DataFrame]:
    """Key and size of every image, or why it cannot be read, a batch at a time."""

    def look(uri: str) -> tuple[str, str | None, int | None, int | None, str | None]:
        try:
            data = reader.read(uri)
            return uri, content_key(data), *_image_size(data, check), None
        except MissingObjectError:
            reason = "the file is missing"
        except UnidentifiedImageError:
            reason = "it is no image that Pillow can read"
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = str(error) or type(error).__name__
        return uri, None, None, None, reason

    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        for part in uris.to_frame().iter_slices(_BATCH):
            found = list(pool.map(look, part["uri"]))
            yield pl.DataFrame(found, schema=_LOOK_SCHEMA, orient="row")


def _image_size(data: bytes, check: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if check == "decode":
            # A JPEG decoded at an eighth still reads every byte: a truncated file is found.
            image.draft("RGB", (max(width // 8, 1), max(height // 8, 1)))
            image.load()
    return width, height


def _refuse_too_many(source: SourceConfig, quarantine: pl.DataFrame, total: int) -> None:
    if quarantine.height <= source.max_unreadable_share * total:
        return
    first = "; ".join(f"{row['uri']}: {row['reason']}" for row in quarantine.head(3).to_dicts())
    raise SourceError(
        f"{source.uri}: {quarantine.height} of {total} images cannot be read ({first}). "
        "Mend them, or raise max_unreadable_share."
    )
