"""What a root holds: read from the records that lie beside the things themselves."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from storage.artifact import RECORD, parse_record
from storage.errors import StorageInputError
from storage.root import Root

Kind = Literal["caches", "mappings", "students", "evaluations", "exports"]


@dataclass(frozen=True)
class Record:
    """One complete thing in a root."""

    kind: str
    id: str
    created: str
    record: dict[str, Any]


def list_things(root: Root, kind: str) -> list[Record]:
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
