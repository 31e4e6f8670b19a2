"""What a cache says about itself: its record, its Zarr metadata and its README."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from storage import _zarr
from storage._readme import readme
from storage._records import checksum, seal, unseal
from storage._rows import RowTable
from storage.errors import (
    CacheFormatError,
    CacheMismatchError,
    CorruptError,
    CorruptRecordError,
    MissingObjectError,
)
from storage.root import Root
from storage.spec import FORMAT, CacheSpec, Layout

FOLDER = "caches"
_RECORD = "record.json"
_COPY = "record-copy.json"
_METADATA = "metadata.json"


def create(
    root: Root, base: str, spec: CacheSpec, layout: Layout, provenance: dict[str, Any]
) -> None:
    """Make an empty cache; where two processes do so at once, the first one's record counts."""
    write_metadata(root, base, spec, layout, 0)
    record = {
        "kind": FOLDER,
        "id": spec.id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "format": FORMAT,
        "spec": spec.model_dump(mode="json"),
        "layout": layout.model_dump(mode="json"),
        "provenance": provenance,
    }
    if root.create(f"{base}/{_RECORD}", seal(record)):
        root.write(f"{base}/{_COPY}", seal(record))


def read(root: Root, base: str) -> tuple[CacheSpec, Layout]:
    """The specification and layout of a cache, from its record or the copy of it.

    Raises:
        MissingObjectError: if there is no cache.
        CorruptRecordError: if record and copy are both damaged.
        CacheFormatError: if another version of the format wrote it.
    """
    problem: CorruptError | None = None
    for name in (_RECORD, _COPY):
        data = root.read_or_none(f"{base}/{name}")
        if data is None:
            continue
        try:
            record = unseal(data, f"{root.url}/{base}/{name}")
        except CorruptError as error:
            problem = problem or error
            continue
        if record["format"] != FORMAT:
            raise CacheFormatError(
                f"{root.url}/{base} has format {record['format']}, this version reads {FORMAT}. "
                "Extract into another root, or use the version that wrote it."
            )
        return CacheSpec.model_validate(record["spec"]), Layout.model_validate(record["layout"])
    if problem is not None:
        raise CorruptRecordError(f"{problem} Delete this cache to rebuild it.") from problem
    raise MissingObjectError(f"{root.url} holds no {base}. Run `tintem extract`.")


def exists(root: Root, base: str) -> bool:
    """Whether a cache was made here, be its record damaged or not."""
    return root.exists(f"{base}/{_RECORD}") or root.exists(f"{base}/{_COPY}")


def write_metadata(root: Root, base: str, spec: CacheSpec, layout: Layout, rows: int) -> None:
    """Write README and Zarr metadata for a number of rows, then what they should be."""
    files = _zarr.metadata_files(spec, layout, rows)
    files["README.md"] = readme(spec, layout).encode()
    for path, data in files.items():
        root.write(f"{base}/{path}", data)
    facts = {path: {"bytes": len(d), "crc32": checksum(d)} for path, d in files.items()}
    root.write(f"{base}/{_METADATA}", seal({"rows": rows, "files": facts}))


def fit_metadata(
    root: Root, base: str, spec: CacheSpec, layout: Layout, rows: RowTable, *, force: bool = False
) -> None:
    """Make the Zarr arrays as long as the rows that were given out, where they are not yet."""
    room = (max(rows.shards, default=-1) + 1) * layout.rows_per_shard
    data = root.read_or_none(f"{base}/{_METADATA}")
    try:
        is_short = data is None or unseal(data, base)["rows"] < room
    except CorruptError:
        is_short = True
    if is_short or force:
        write_metadata(root, base, spec, layout, room)


def problems(root: Root, base: str) -> Iterator[tuple[str, str]]:
    """Damaged files among these, and what is wrong with each."""
    described: dict[str, Any] = {}
    for name in (_RECORD, _COPY, _METADATA):
        data = root.read_or_none(f"{base}/{name}")
        try:
            if data is None:
                raise CorruptRecordError(f"{root.url}/{base}/{name} is missing.")
            described = unseal(data, f"{root.url}/{base}/{name}")
        except CorruptError as error:
            described = {}
            yield f"{base}/{name}", str(error)
    for name, fact in described.get("files", {}).items():
        found = root.read_or_none(f"{base}/{name}")
        if found is None:
            yield f"{base}/{name}", "it is missing"
        elif (len(found), checksum(found)) != (fact["bytes"], fact["crc32"]):
            yield f"{base}/{name}", "its checksum differs"


def restore(root: Root, base: str) -> None:
    """Write the record from its copy, or the copy from the record, where one is damaged."""
    damaged = {path for path, _ in problems(root, base)}
    for name, other in ((_RECORD, _COPY), (_COPY, _RECORD)):
        if f"{base}/{name}" in damaged:
            root.write(f"{base}/{name}", root.read(f"{base}/{other}"))


def refuse_other(where: str, found: CacheSpec, wanted: CacheSpec) -> None:
    """Raises CacheMismatchError that names the first field in which two specifications differ."""
    have, want = found.model_dump(mode="json"), wanted.model_dump(mode="json")
    have = {**have.pop("content"), **have}
    want = {**want.pop("content"), **want}
    for name in [*want, *have]:
        if have.get(name) != want.get(name):
            raise CacheMismatchError(
                f"{where} was made with {name} = {have.get(name)!r}, but this run asks for "
                f"{want.get(name)!r}. Use another root, or delete this cache to rebuild it."
            )
