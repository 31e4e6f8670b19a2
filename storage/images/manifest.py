"""The manifest: one row per image, identified by its content."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import polars as pl

from storage.errors import CorruptError, CorruptRecordError, MissingObjectError
from storage.identity import content_key, make_id
from storage.images.source import SourceConfig
from storage.keys import Column
from storage.records import FileFact, seal, unseal
from storage.root import Root

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
    # 64 bits of the digest of the decoded pixels; null where only the header was read.
    "pixels": pl.UInt64,
}
UNKNOWN_TO_TEACHER = "without a latent"
_SLICE = 100_000
_PARTS = ("", ".quarantine", ".duplicates", ".left-out")
LIST_SCHEMA = {name: dtype for name, dtype in SCHEMA.items() if name != "row"}


def _nothing() -> pl.DataFrame:
    return pl.DataFrame(schema=LIST_SCHEMA)


@dataclass(frozen=True)
class Manifest:
    """The images of a source.

    Attributes:
        table: `SCHEMA`; the same picture appears once, however often and however encoded it lies
            in the source.
        quarantine: (uri, reason) of what could not be read.
        duplicates: `SCHEMA` without row; further uris of pictures that are already in the table.
        left_out: `SCHEMA` without row; images that ``max_images`` leaves out, or that a
            teacher has no latent of.
        splits_drawn: whether splits were drawn because the source names only one of them.
        skipped: how many files were not looked at, by suffix or reason, and how many photos of the
            left out ones a teacher has no latent of.
        conflicting: how many images have no label because the source gives them several.
    """

    source: SourceConfig
    table: pl.DataFrame
    quarantine: pl.DataFrame
    duplicates: pl.DataFrame
    left_out: pl.DataFrame = field(default_factory=_nothing)
    splits_drawn: bool = False
    skipped: dict[str, int] = field(default_factory=dict)
    conflicting: int = 0

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

    @property
    def summary(self) -> str:
        """What was found, in one line."""
        photos, labelled = self.table.height, self.table.height - self.table["label"].null_count()
        told = f"{photos:,} photos of {self.source.name}"
        if labelled or self.conflicting:
            told += f": {labelled:,} labelled, {photos - labelled:,} unlabelled"
            told += f" ({self.conflicting:,} given two labels)" if self.conflicting else ""
            told += f", {len(self.classes):,} classes"
        else:
            told += ", without labels"
        copies = self.duplicates["key"].is_in(self.table["key"].implode()).sum()
        left_out = {
            "unreadable": self.quarantine.height,
            "copies": copies,
            "other files of the same pixels": self.duplicates.height - copies,
            "above max_images": self.left_out.height - self.skipped.get(UNKNOWN_TO_TEACHER, 0),
            **self.skipped,
        }
        reasons = [f"{count:,} {reason}" for reason, count in left_out.items() if count]
        return told + ("; left out: " + ", ".join(reasons) if reasons else "")

    def select(self, split: str | None = None) -> pl.DataFrame:
        """The rows of one split, or all."""
        return self.table if split is None else self.table.filter(pl.col("split") == split)

    def without_unknown(self, is_known: pl.Series) -> "Manifest":
        """The photos of which a teacher has a latent; the others are listed as left out."""
        unknown = self.table.filter(~is_known).drop("row")
        if unknown.is_empty():
            return self
        return replace(
            self,
            table=self.table.drop("row").filter(is_known).with_row_index("row"),
            left_out=pl.concat([self.left_out, unknown]),
            skipped={**self.skipped, UNKNOWN_TO_TEACHER: unknown.height},
        )

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
            "skipped": self.skipped,
            "conflicting": self.conflicting,
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
        return {"file": name, **asdict(FileFact.of(data))}

    @staticmethod
    def problems(root: Root) -> dict[str, str]:
        """What differs from what was recorded about all manifests, by file."""
        found = {}
        stored = root.list(FOLDER)
        ids = {path.removeprefix(f"{FOLDER}/")[:-5] for path in stored if path.endswith(".json")}
        for id in sorted(ids):
            try:
                Manifest.load(root, id)
            except CorruptError as error:
                found[f"{FOLDER}/{id}.json"] = str(error)
        for path in stored:
            owner = path.removeprefix(f"{FOLDER}/").split(".")[0]
            if path.endswith(".parquet") and owner not in ids:
                found[f"{FOLDER}/{owner}.json"] = "it is missing, so its tables do not count"
        return found

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
        if record.get("id") != id:
            raise CorruptRecordError(
                f"{root.url}/{where} is the manifest {record.get('id')}. Run `tintem run` to index "
                "again."
            )
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
        return cls(
            source,
            table,
            quarantine,
            duplicates,
            left_out,
            record.get("splits_drawn", False),
            record.get("skipped", {}),
            record.get("conflicting", 0),
        )

    @classmethod
    def latest(cls, root: Root, name: str) -> "Manifest | None":
        """The newest stored manifest of a dataset name, to build the next one from.

        None also where it is damaged: the next one is then built by reading every image again.
        """
        records = manifest_records(root).values()
        named = [record for record in records if record and record["source"]["name"] == name]
        if not named:
            return None
        try:
            return cls.load(root, max(named, key=lambda record: str(record["created"]))["id"])
        except (CorruptError, MissingObjectError):
            return None


def manifest_records(root: Root) -> dict[str, dict[str, Any] | None]:
    """The record of every stored manifest by id; None where it is damaged."""
    # A dataset that grows every night has hundreds.
    paths = [path for path in root.list(FOLDER) if path.endswith(".json")]
    found: dict[str, dict[str, Any] | None] = {}
    for path, data in zip(paths, root.read_many(paths), strict=True):
        if data is None:
            continue
        id = path.removeprefix(f"{FOLDER}/").removesuffix(".json")
        try:
            record = unseal(data, f"{root.url}/{path}")
        except CorruptError:
            record = None
        # One of another manifest in its place is none.
        found[id] = record if record is not None and record["id"] == id else None
    return found


def _read_table(root: Root, name: str, fact: dict[str, Any]) -> pl.DataFrame:
    where = f"{root.url}/{FOLDER}/{name}"
    data = root.read_or_none(f"{FOLDER}/{name}")
    if data is None:
        raise CorruptRecordError(f"{where} is missing. Run `tintem run` to index again.")
    if fact and not FileFact(fact["bytes"], fact["crc32"]).matches(data):
        raise CorruptRecordError(
            f"{where} is damaged: its checksum differs. Run `tintem run` to index again."
        )
    table = pl.read_parquet(io.BytesIO(data))
    if "key" in table.columns and "pixels" not in table.columns:
        # Of a release that looked at bytes alone.
        table = table.with_columns(pixels=pl.lit(None, SCHEMA["pixels"]))
    return table
