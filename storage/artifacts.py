"""Artifacts: a few files that count only once recorded; and the list of all that a root holds."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from storage.errors import CorruptError, CorruptRecordError, MissingObjectError, StorageInputError
from storage.identity import canonical_json
from storage.records import parse_record, seal, unseal
from storage.root import Root

RECORD = "record.json"
_RESERVED = ("kind", "id", "files", "check")

Kind = Literal["caches", "mappings", "students", "evaluations", "exports", "nights", "sweeps"]


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

    The record gains ``kind``, ``id``, ``created`` (UTC), ``files`` (bytes and SHA-256 of each) and
    ``check``, a digest of all that.
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
        _write_record(root, kind, id, record)
    root.write(f"{kind}/{id}/{name}", data)


def read_record(root: Root, kind: str, id: str) -> dict[str, Any] | None:
    """The record of a complete artifact, or None when there is none.

    One of which a file is gone, or is of another size than recorded, is none: it is made again.

    Raises:
        CorruptRecordError: if the record is there but is damaged, or that of another artifact.
    """
    data = root.read_or_none(f"{kind}/{id}/{RECORD}")
    if data is None:
        return None
    record = _parse(root, kind, id, data)
    return None if _resized(record, root.sizes(f"{kind}/{id}")) else record


def parse_artifact(data: bytes, where: str) -> dict[str, Any]:
    """The record of an artifact, as its file has it.

    Raises:
        CorruptRecordError: if it is damaged.
    """
    record = parse_record(data, where)
    # Earlier releases wrote no check: their records end with the files.
    return record if [*record][-1:] == ["files"] else unseal(data, where)


def problems(root: Root, kind: str, id: str) -> dict[str, str]:
    """What differs from what was recorded about an artifact, by file; every byte is read.

    An artifact that is not complete has a record that is missing, and nothing else to compare.
    """
    data = root.read_or_none(f"{kind}/{id}/{RECORD}")
    if data is None:
        return {RECORD: "it is missing"}
    try:
        record = _parse(root, kind, id, data)
    except CorruptError as error:
        return {RECORD: str(error)}
    found = {}
    for name, fact in record.get("files", {}).items():
        data = root.read_or_none(f"{kind}/{id}/{name}")
        if data is None:
            found[name] = "it is missing"
        elif len(data) != fact["bytes"]:
            found[name] = f"it has {len(data)} bytes instead of {fact['bytes']}"
        elif hashlib.sha256(data).hexdigest() != fact["sha256"]:
            found[name] = "its digest differs"
    return found


def _parse(root: Root, kind: str, id: str, data: bytes) -> dict[str, Any]:
    where = f"{root.url}/{kind}/{id}/{RECORD}"
    record = parse_artifact(data, where)
    found = f"{record.get('kind')}/{record.get('id')}"
    if found != f"{kind}/{id}":
        raise CorruptRecordError(
            f"{where} is the record of {found}. Delete it and run the stage again."
        )
    return record


def _resized(record: dict[str, Any], sizes: dict[str, int]) -> list[str]:
    """Files of an artifact that are gone, or of another size than recorded."""
    base = f"{record['kind']}/{record['id']}"
    files = record.get("files", {}).items()
    return [name for name, fact in files if sizes.get(f"{base}/{name}") != fact["bytes"]]


def _write_record(root: Root, kind: str, id: str, record: dict[str, Any]) -> None:
    # Through JSON, so that what is sealed is what will be read: keys become strings.
    root.write(f"{kind}/{id}/{RECORD}", seal(json.loads(json.dumps(record))))


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


def read_records(root: Root, kind: str) -> list[dict[str, Any]]:
    """Every record of one kind, oldest first, whether or not the files that it names are there.

    Raises:
        CorruptRecordError: if one is damaged, or that of another artifact.
    """
    ids = root.folders(kind)
    records = [
        _parse(root, kind, id, data)
        for id, data in zip(ids, _read_all(root, kind, ids), strict=True)
        if data is not None
    ]
    return sorted(records, key=lambda record: str(record["created"]))


def _read_all(root: Root, kind: str, ids: Sequence[str]) -> Sequence[bytes | None]:
    return root.read_many([f"{kind}/{id}/{RECORD}" for id in ids])


def list_artifacts(root: Root, kind: str) -> list[Record]:
    """Every complete thing of one kind, oldest first; half-written and damaged ones are not listed.

    Raises:
        StorageInputError: if the kind is not one of those a root holds.
    """
    return _survey(root, kind)[0]


def broken_artifacts(root: Root, kind: str) -> dict[str, str]:
    """What was complete once and is no more, by id: a sentence that says why.

    Records and the sizes of files are looked at; :func:`problems` reads every byte.

    Raises:
        StorageInputError: if the kind is not one of those a root holds.
    """
    return _survey(root, kind)[1]


def _survey(root: Root, kind: str) -> tuple[list[Record], dict[str, str]]:
    if kind not in get_args(Kind):
        raise StorageInputError(f"{kind!r} is no kind of thing; use {', '.join(get_args(Kind))}.")
    ids = root.folders(kind)
    # A cache tells the sizes of its files elsewhere, and may have very many.
    sizes = {} if kind == "caches" else root.sizes(kind)
    whole, broken = [], {}
    for id, data in zip(ids, _read_all(root, kind, ids), strict=True):
        if data is None:
            continue
        try:
            record = _parse(root, kind, id, data)
        except CorruptError as error:
            broken[id] = str(error)
            continue
        if lost := _resized(record, sizes):
            broken[id] = (
                f"{root.url}/{kind}/{id} is not whole: {', '.join(lost)} is missing, or not of the "
                "size that was recorded. Run the stage again."
            )
        else:
            whole.append(Record(kind, id, str(record.get("created", "")), record))
    return sorted(whole, key=lambda thing: (thing.created, thing.id)), broken
