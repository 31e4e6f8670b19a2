"""Artifacts: a few files that count only once recorded; and the list of all that a root holds."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from storage.errors import CorruptRecordError, MissingObjectError, StorageInputError
from storage.identity import canonical_json
from storage.records import parse_record
from storage.root import Root

RECORD = "record.json"
_RESERVED = ("kind", "id", "files")

Kind = Literal["caches", "mappings", "students", "evaluations", "exports"]


@dataclass(frozen=True)
class Record:
    """One complete thing in a root."""

    kind: str
    id: str
    created: str
    record: dict[str, Any]


def write_artifact(
    root: Root, kind: str, id: str, files: dict[str, bytes], record: dict[str, Any]
) -> None:
    """Store an artifact: its files first, then the record that makes it count.

    The record gains ``kind``, ``id``, ``created`` (UTC) and ``files`` (bytes and SHA-256 of each).
    An artifact of the same id is withdrawn before its files are replaced.

    Raises:
        StorageInputError: if the record uses one of the reserved names or JSON cannot hold it.
    """
    taken = [name for name in _RESERVED if name in record]
    if taken:
        raise StorageInputError(f"{kind}/{id}: the record may not set {', '.join(taken)}.")
    full = {
        "kind": kind,
        "id": id,
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
        **record,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in sorted(files.items())
        },
    }
    canonical_json(full)
    root.delete(f"{kind}/{id}/{RECORD}")
    for name, data in files.items():
        root.write(f"{kind}/{id}/{name}", data)
    _write_record(root, kind, id, full)


def write_beside(root: Root, kind: str, id: str, name: str, data: bytes) -> None:
    """Put a file beside those of an artifact: a view of it, which may be made again at any time.

    It is no part of the artifact. A record that names a file so, of an older release, stops to.

    Raises:
        MissingObjectError: if the artifact is not complete.
    """
    record = read_record(root, kind, id)
    if record is None:
        raise MissingObjectError(f"{root.url} holds no complete {kind}/{id}. Run the stage again.")
    if record.get("files", {}).pop(name, None) is not None:
        root.write(
            f"{kind}/{id}/{RECORD}", json.dumps(record, indent=2, ensure_ascii=False).encode()
        )
    root.write(f"{kind}/{id}/{name}", data)


def read_record(root: Root, kind: str, id: str) -> dict[str, Any] | None:
    """The record of a complete artifact, or None when there is none.

    One of which a file is gone, or is of another size than recorded, is none: it is made again.

    Raises:
        CorruptRecordError: if the record is there but is not JSON.
    """
    data = root.read_or_none(f"{kind}/{id}/{RECORD}")
    if data is None:
        return None
    record = parse_record(data, f"{root.url}/{kind}/{id}/{RECORD}")
    there = root.sizes(f"{kind}/{id}")
    files = record.get("files", {}).items()
    is_whole = all(there.get(f"{kind}/{id}/{name}") == fact["bytes"] for name, fact in files)
    return record if is_whole else None


def _write_record(root: Root, kind: str, id: str, record: dict[str, Any]) -> None:
    data = json.dumps(record, indent=2, ensure_ascii=False).encode()
    root.write(f"{kind}/{id}/{RECORD}", data)


def read_file(root: Root, kind: str, id: str, name: str) -> bytes:
    """The bytes of one file of an artifact, checked against its record.

    Raises:
        MissingObjectError: if the artifact is not complete or has no such file.
        CorruptRecordError: if the bytes differ from what the record says.
    """
    record = read_record(root, kind, id)
    if record is None:
        raise MissingObjectError(f"{root.url} holds no complete {kind}/{id}. Run the stage again.")
    data = root.read(f"{kind}/{id}/{name}")
    known = record.get("files", {}).get(name)
    if known is not None and known["sha256"] != hashlib.sha256(data).hexdigest():
        raise CorruptRecordError(
            f"{root.url}/{kind}/{id}/{name} differs from what was recorded when it was written. "
            "Delete this artifact and run the stage again."
        )
    return data


def list_artifacts(root: Root, kind: str) -> list[Record]:
    """Every complete thing of one kind, oldest first; half-written ones are not listed.

    Raises:
        StorageInputError: if the kind is not one of those a root holds.
        CorruptRecordError: if a record is not readable JSON.
    """
    if kind not in get_args(Kind):
        raise StorageInputError(f"{kind!r} is no kind of thing; use {', '.join(get_args(Kind))}.")
    ids = root.folders(kind)
    paths = [f"{kind}/{id}/{RECORD}" for id in ids]
    found = [
        (id, parse_record(data, f"{root.url}/{path}"))
        for id, path, data in zip(ids, paths, root.read_many(paths), strict=True)
        if data is not None
    ]
    things = [Record(kind, id, str(record.get("created", "")), record) for id, record in found]
    return sorted(things, key=lambda thing: (thing.created, thing.id))
