"""What a cache says about itself: its record, its Zarr metadata and its README."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from storage import _rows, _zarr
from storage._readme import readme
from storage._records import checksum, seal, unseal
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
    """Make an empty cache; where two processes do so at once, the first one's record counts.

    Raises:
        CorruptRecordError: if embeddings are there, but no record of how they were cut.
    """
    _refuse_orphan(root, base)
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
    is_damaged = False
    for name in (_RECORD, _COPY):
        data = root.read_or_none(f"{base}/{name}")
        if data is None:
            continue
        try:
            record = unseal(data, f"{root.url}/{base}/{name}")
        except CorruptError:
            is_damaged = True
            continue
        if record["format"] != FORMAT:
            raise CacheFormatError(
                f"{root.url}/{base} has format {record['format']}, this version reads {FORMAT}. "
                "Extract into another root, or use the version that wrote it."
            )
        return CacheSpec.model_validate(record["spec"]), Layout.model_validate(record["layout"])
    if is_damaged:
        raise CorruptRecordError(
            f"{root.url}/{base}: {_RECORD} is damaged, and so is the copy of it. Delete this "
            "cache to rebuild it."
        )
    _refuse_orphan(root, base)
    raise MissingObjectError(f"{root.url} holds no {base}. Run `tintem extract`.")


def exists(root: Root, base: str) -> bool:
    """Whether a cache was made here, be its record damaged or not."""
    return root.exists(f"{base}/{_RECORD}") or root.exists(f"{base}/{_COPY}")


def _refuse_orphan(root: Root, base: str) -> None:
    # Rows come after the record; they tell nothing without the number of rows in a shard.
    if root.exists(f"{base}/{_rows.FOLDER}") and not exists(root, base):
        raise CorruptRecordError(
            f"{root.url}/{base}: {_RECORD} is missing, and so is the copy of it. Delete this "
            "cache to rebuild it."
        )


def write_metadata(root: Root, base: str, spec: CacheSpec, layout: Layout, rows: int) -> None:
    """Write README and Zarr metadata for a number of rows, then what they should be."""
    files = _zarr.metadata_files(spec, layout, rows)
    files["README.md"] = readme(spec, layout).encode()
    for path, data in files.items():
        root.write(f"{base}/{path}", data)
    facts = {path: {"bytes": len(d), "crc32": checksum(d)} for path, d in files.items()}
    root.write(f"{base}/{_METADATA}", seal({"rows": rows, "files": facts}))


def fit_metadata(
    root: Root, base: str, spec: CacheSpec, layout: Layout, shards: int, *, force: bool = False
) -> None:
    """Make the Zarr arrays as long as the rows that were given out, where they are not yet.

    Several processes may do so at once, and mix their files. Each looks again after it has written,
    so the last one leaves metadata that are whole and long enough for everybody's rows.

    Args:
        shards: there must be room for at least so many; others may have given out more meanwhile.
    """
    while force or not _has_room(root, base, shards * layout.rows_per_shard):
        shards = max(shards, _shards(root, base))
        write_metadata(root, base, spec, layout, shards * layout.rows_per_shard)
        shards = max(shards, _shards(root, base))
        force = False


def _shards(root: Root, base: str) -> int:
    return max(_rows.allocated(root, base), default=-1) + 1


def _has_room(root: Root, base: str, rows: int) -> bool:
    data = root.read_or_none(f"{base}/{_METADATA}")
    if data is None:
        return False
    try:
        described = unseal(data, base)
    except CorruptError:
        return False
    return described["rows"] >= rows and not any(_differing(root, base, described["files"]))


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
    yield from _differing(root, base, described.get("files", {}))


def _differing(
    root: Root, base: str, files: dict[str, dict[str, int]]
) -> Iterator[tuple[str, str]]:
    """Files that are not as they were written, and what is wrong with each."""
    paths = [f"{base}/{name}" for name in files]
    for path, fact, found in zip(paths, files.values(), root.read_many(paths), strict=True):
        if found is None:
            yield path, "it is missing"
        elif (len(found), checksum(found)) != (fact["bytes"], fact["crc32"]):
            yield path, "its checksum differs"


def restore(root: Root, base: str) -> None:
    """Write the record from its copy, or the copy from the record, where one is damaged."""
    damaged = {path for path, _ in problems(root, base)}
    for name, other in ((_RECORD, _COPY), (_COPY, _RECORD)):
        if f"{base}/{name}" in damaged:
            root.write(f"{base}/{name}", root.read(f"{base}/{other}"))


def refuse_other(where: str, found: CacheSpec, wanted: CacheSpec) -> None:
    """Raises CacheMismatchError that names the first field in which two specifications differ."""
    have, want = found.determining(), wanted.determining()
    have = {**have.pop("content"), **have}
    want = {**want.pop("content"), **want}
    for name in [*want, *have]:
        if have.get(name) != want.get(name):
            raise CacheMismatchError(
                f"{where} was made with {name} = {have.get(name)!r}, but this run asks for "
                f"{want.get(name)!r}. Use another root, or delete this cache to rebuild it."
            )
