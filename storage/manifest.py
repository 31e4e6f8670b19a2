"""The manifest: one row per image, identified by its content."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import polars as pl

from storage._inspect import LOOK_SCHEMA, inspect
from storage._keys import Column
from storage._records import checksum, seal, unseal
from storage.errors import CorruptError, CorruptRecordError, MissingObjectError, SourceError
from storage.identity import content_key, make_id
from storage.root import Root
from storage.source import ImageReader, SourceConfig, open_source

__all__ = ["Column", "ImageReader", "Manifest", "SourceConfig", "build_manifest", "open_reader"]

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
_SLICE = 100_000
_SPLIT_DIGITS = 8
_PARTS = ("", ".quarantine", ".duplicates", ".left-out")
_LIST_SCHEMA = {name: dtype for name, dtype in SCHEMA.items() if name != "row"}


def _nothing() -> pl.DataFrame:
    return pl.DataFrame(schema=_LIST_SCHEMA)


@dataclass(frozen=True)
class Manifest:
    """The images of a source.

    Attributes:
        table: `SCHEMA`; the same content appears once, under the first of its uris.
        quarantine: (uri, reason) of what could not be read.
        duplicates: `SCHEMA` without row; further uris of content that is already in the table.
        left_out: `SCHEMA` without row; images that ``max_images`` leaves out.
        splits_drawn: whether splits were drawn because the source names only one of them.
    """

    source: SourceConfig
    table: pl.DataFrame
    quarantine: pl.DataFrame
    duplicates: pl.DataFrame
    left_out: pl.DataFrame = field(default_factory=_nothing)
    splits_drawn: bool = False

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

    def keys(self, split: str | None = None) -> Sequence[str]:
        """Content keys in row order."""
        return Column(self.select(split)["key"])

    def save(self, root: Root) -> str:
        """Store under ``manifests/<id>``, the record last; returns the id.

        What was stored under this id counts until then: no file that its record names is changed.
        """
        tables = (self.table, self.quarantine, self.duplicates, self.left_out)
        facts = {
            part: self._store(root, part, table) for part, table in zip(_PARTS, tables, strict=True)
        }
        record = {
            "id": self.id,
            "created": datetime.now(UTC).isoformat(timespec="microseconds"),
            "source": self.source.model_dump(mode="json"),
            "images": self.table.height,
            "unreadable": self.quarantine.height,
            "duplicates": self.duplicates.height,
            "left_out": self.left_out.height,
            "splits_drawn": self.splits_drawn,
            "tables": facts,
        }
        root.write(f"{FOLDER}/{self.id}.json", seal(record))
        current = {f"{FOLDER}/{fact['file']}" for fact in facts.values()}
        for path in root.list(FOLDER):
            is_own = path.startswith(f"{FOLDER}/{self.id}.") and path.endswith(".parquet")
            if is_own and path not in current:
                root.delete(path)
        return self.id

    def _store(self, root: Root, part: str, table: pl.DataFrame) -> dict[str, Any]:
        """Write a table, under a name that follows from its bytes; returns what is recorded."""
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        data = buffer.getvalue()
        name = f"{self.id}{part}.{content_key(data)[:10]}.parquet"
        if root.read_or_none(f"{FOLDER}/{name}") != data:
            root.write(f"{FOLDER}/{name}", data)
        return {"file": name, "bytes": len(data), "crc32": checksum(data)}

    @classmethod
    def load(cls, root: Root, id: str) -> "Manifest":
        """A stored manifest.

        Raises:
            MissingObjectError: if there is none.
            CorruptRecordError: if its record, or a table of it, is damaged.
        """
        where = f"{FOLDER}/{id}.json"
        data = root.read(where)
        record = unseal(data, f"{root.url}/{where}")
        source = SourceConfig.model_validate(record["source"])
        # Older manifests have tables of fixed names; the oldest three of them, without checksums.
        facts = record.get("tables", {part: {} for part in _PARTS[:3]})
        try:
            table, quarantine, duplicates, *rest = (
                _read_table(root, fact.get("file", f"{id}{part}.parquet"), fact)
                for part, fact in facts.items()
            )
        except CorruptRecordError:
            if root.read(where) == data:
                raise
            # Saved anew meanwhile: the tables of before are gone.
            return cls.load(root, id)
        left_out = rest[0] if rest else _nothing()
        drawn = record.get("splits_drawn", False)
        return cls(source, table, quarantine, duplicates, left_out, drawn)

    @classmethod
    def latest(cls, root: Root, name: str) -> "Manifest | None":
        """The newest stored manifest of a dataset name, to build the next one from.

        None also where it is damaged: the next one is then built by reading every image again.
        """
        named = []
        # A dataset that grows every night has hundreds.
        paths = [path for path in root.list(FOLDER) if path.endswith(".json")]
        for path, data in zip(paths, root.read_many(paths), strict=True):
            if data is None:
                continue
            try:
                record = unseal(data, f"{root.url}/{path}")
            except CorruptError:
                continue
            if record["source"]["name"] == name:
                named.append(record)
        if not named:
            return None
        try:
            return cls.load(root, max(named, key=lambda record: str(record["created"]))["id"])
        except (CorruptError, MissingObjectError):
            return None


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
    seen = _seen(source, previous)
    entries = entries.join(seen, on=["uri", "bytes", "modified"], how="left", maintain_order="left")
    fresh = entries.filter(pl.col("key").is_null())
    done = entries.height - fresh.height
    read = pl.DataFrame(schema=LOOK_SCHEMA)
    for batch in inspect(reader, fresh["uri"], source.check):
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
        pl.DataFrame({name: rows[name].cast(dtype) for name, dtype in _LIST_SCHEMA.items()})
        for rows in (duplicates, left_out)
    )
    return Manifest(source, table, quarantine, duplicates, left_out, splits_drawn)


def draws_splits(given: pl.Series, test_share: float) -> bool:
    """Whether splits are drawn for all images, because the source names one split for them all.

    There would be nothing to test on, or nothing to train on.
    """
    return given.null_count() == 0 and given.n_unique() == 1 and test_share > 0


def _seen(source: SourceConfig, previous: Manifest | None) -> pl.DataFrame:
    """What the previous manifest knows about images that are looked at no less than now."""
    names = ["uri", "bytes", "modified", "key", "width", "height"]
    if (
        previous is None
        or previous.source.uri != source.uri
        or previous.source.check not in ("decode", source.check)
    ):
        return pl.DataFrame(schema={name: SCHEMA[name] for name in names})
    known = (previous.table, previous.duplicates, previous.left_out)
    rows = pl.concat([table.select(names) for table in known])
    # Zeros stand for unknown: a file of which neither size nor date is known may have changed.
    return rows.filter((pl.col("bytes") != 0) | (pl.col("modified") != 0))


def _read_table(root: Root, name: str, fact: dict[str, Any]) -> pl.DataFrame:
    where = f"{root.url}/{FOLDER}/{name}"
    data = root.read_or_none(f"{FOLDER}/{name}")
    if data is None:
        raise CorruptRecordError(f"{where} is missing. Run `tintem run` to index again.")
    if fact and (len(data), checksum(data)) != (fact["bytes"], fact["crc32"]):
        raise CorruptRecordError(
            f"{where} is damaged: its checksum differs. Run `tintem run` to index again."
        )
    return pl.read_parquet(io.BytesIO(data))


def _refuse_too_many(source: SourceConfig, quarantine: pl.DataFrame, total: int) -> None:
    if quarantine.height <= source.max_unreadable_share * total:
        return
    first = "; ".join(f"{row['uri']}: {row['reason']}" for row in quarantine.head(3).to_dicts())
    raise SourceError(
        f"{source.uri}: {quarantine.height} of {total} images cannot be read ({first}). "
        "Mend them, or raise max_unreadable_share."
    )
