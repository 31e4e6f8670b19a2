"""What a cache says about itself: its record, its Zarr metadata and its README."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from storage.cache import rows
from storage.cache.handle import FOLDER, CacheHandle
from storage.cache.readme import readme
from storage.cache.spec import FORMAT, CacheSpec, Layout
from storage.cache.zarr_format import metadata_files
from storage.errors import (
    CacheFormatError,
    CacheMismatchError,
    CorruptError,
    CorruptRecordError,
    MissingObjectError,
)
from storage.records import FileFact, seal, unseal
from storage.root import Root

_RECORD = "record.json"
_COPY = "record-copy.json"
_METADATA = "metadata.json"


def create(cache: CacheHandle, provenance: dict[str, Any]) -> None:
    """Make an empty cache; where two processes do so at once, the first one's record counts.

    Raises:
        CorruptRecordError: if embeddings are there, but no record of how they were cut.
    """
    _refuse_orphan(cache.root, cache.base)
    _write_metadata(cache, 0)
    record = {
        "kind": FOLDER,
        "id": cache.id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "format": FORMAT,
        "spec": cache.spec.model_dump(mode="json"),
        "layout": cache.layout.model_dump(mode="json"),
        "provenance": provenance,
    }
    if cache.root.create(f"{cache.base}/{_RECORD}", seal(record)):
        cache.root.write(f"{cache.base}/{_COPY}", seal(record))


def read(root: Root, cache_id: str) -> CacheHandle:
    """A cache as its record says, or the copy of it.

    Raises:
        MissingObjectError: if there is no cache.
        CorruptRecordError: if record and copy are both damaged.
        CacheFormatError: if another version of the format wrote it.
    """
    base = f"{FOLDER}/{cache_id}"
    is_damaged = False
    for name in (_RECORD, _COPY):
        data = root.read_or_none(f"{base}/{name}")
        if data is None:
            continue
        try:
            record = _unseal_own(data, cache_id, f"{root.url}/{base}/{name}")
        except CorruptError:
            is_damaged = True
            continue
        if record["format"] != FORMAT:
            raise CacheFormatError(
                f"{root.url}/{base} has format {record['format']}, this version reads {FORMAT}. "
                "Extract into another root, or use the version that wrote it."
            )
        spec, layout = record["spec"], record["layout"]
        return CacheHandle(
            root, cache_id, CacheSpec.model_validate(spec), Layout.model_validate(layout)
        )
    if is_damaged:
        raise CorruptRecordError(
            f"{root.url}/{base}: {_RECORD} is damaged, and so is the copy of it. Delete this "
            "cache to rebuild it."
        )
    _refuse_orphan(root, base)
    raise MissingObjectError(f"{root.url} holds no {base}. Run `tintem extract`.")


def _unseal_own(data: bytes, cache_id: str, where: str) -> dict[str, Any]:
    """A cache's record. Raises CorruptRecordError if it is damaged, or that of another cache."""
    record = unseal(data, where)
    if record.get("id") != cache_id:
        raise CorruptRecordError(f"{where} is the record of {record.get('id')}.")
    return record


def exists(root: Root, cache_id: str) -> bool:
    """Whether a cache was made here, be its record damaged or not."""
    return any(root.exists(f"{FOLDER}/{cache_id}/{name}") for name in (_RECORD, _COPY))


def _refuse_orphan(root: Root, base: str) -> None:
    # Rows come after the record; they tell nothing without the number of rows in a shard.
    if root.exists(f"{base}/{rows.FOLDER}") and not exists(root, base.removeprefix(f"{FOLDER}/")):
        raise CorruptRecordError(
            f"{root.url}/{base}: {_RECORD} is missing, and so is the copy of it. Delete this "
            "cache to rebuild it."
        )


def _write_metadata(cache: CacheHandle, length: int) -> None:
    """Write README and Zarr metadata for a number of rows, then what they should be."""
    files = metadata_files(cache.spec, cache.layout, length)
    files["README.md"] = readme(cache.spec, cache.layout).encode()
    for path, data in files.items():
        cache.root.write(f"{cache.base}/{path}", data)
    facts = {path: asdict(FileFact.of(data)) for path, data in files.items()}
    cache.root.write(f"{cache.base}/{_METADATA}", seal({"rows": length, "files": facts}))


def fit_metadata(cache: CacheHandle, shards: int, *, force: bool = False) -> None:
    """Make the Zarr arrays as long as the rows that were given out, where they are not yet.

    Several processes may do so at once, and mix their files. Each looks again after it has written,
    so the last one leaves metadata that are whole and long enough for everybody's rows.

    Args:
        shards: there must be room for at least so many; others may have given out more meanwhile.
        force: write them in any case.
    """
    while force or not _has_room(cache, shards * cache.layout.rows_per_shard):
        shards = max(shards, _shards(cache))
        _write_metadata(cache, shards * cache.layout.rows_per_shard)
        shards = max(shards, _shards(cache))
        force = False


def _shards(cache: CacheHandle) -> int:
    return max(rows.allocated(cache.root, cache.base), default=-1) + 1


def _has_room(cache: CacheHandle, length: int) -> bool:
    data = cache.root.read_or_none(f"{cache.base}/{_METADATA}")
    if data is None:
        return False
    try:
        described = unseal(data, cache.base)
    except CorruptError:
        return False
    return described["rows"] >= length and not any(_differing(cache, described["files"]))


def problems(cache: CacheHandle) -> Iterator[tuple[str, str]]:
    """Damaged files among these, and what is wrong with each."""
    described: dict[str, Any] = {}
    for name in (_RECORD, _COPY, _METADATA):
        data = cache.root.read_or_none(f"{cache.base}/{name}")
        try:
            if data is None:
                raise CorruptRecordError(f"{cache.url}/{name} is missing.")
            where = f"{cache.url}/{name}"
            if name == _METADATA:
                described = unseal(data, where)
            else:
                _unseal_own(data, cache.id, where)
        except CorruptError as error:
            described = {}
            yield f"{cache.base}/{name}", str(error)
    yield from _differing(cache, described.get("files", {}))


def _differing(cache: CacheHandle, files: dict[str, dict[str, int]]) -> Iterator[tuple[str, str]]:
    """Files that are not as they were written, and what is wrong with each."""
    paths = [f"{cache.base}/{name}" for name in files]
    for path, fact, data in zip(paths, files.values(), cache.root.read_many(paths), strict=True):
        if data is None:
            yield path, "it is missing"
        elif not FileFact(**fact).matches(data):
            yield path, "its checksum differs"


def restore(cache: CacheHandle) -> None:
    """Write the record from its copy, or the copy from the record, where one is damaged."""
    damaged = {path for path, _ in problems(cache)}
    for name, other in ((_RECORD, _COPY), (_COPY, _RECORD)):
        if f"{cache.base}/{name}" in damaged:
            cache.root.write(f"{cache.base}/{name}", cache.root.read(f"{cache.base}/{other}"))


def complete_copies(cache: CacheHandle) -> None:
    """Copy what a process wrote that was killed before it had written the copies."""
    record, copy = f"{cache.base}/{_RECORD}", f"{cache.base}/{_COPY}"
    if not cache.root.exists(copy):
        cache.root.write(copy, cache.root.read(record))
    rows.complete_copies(cache.root, cache.base)


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
