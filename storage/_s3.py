"""A root on an S3 object store, through obstore."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import S3Store

if TYPE_CHECKING:
    from obstore import ObjectMeta

from storage.errors import MissingObjectError, StorageInputError
from storage.root import ObjectFacts, Root, clean

_first_user: int | None = None


class S3Root(Root):
    """Objects below ``s3://bucket/prefix``.

    Endpoint, region and credentials come from the environment (AWS_ENDPOINT_URL,
    AWS_ACCESS_KEY_ID, AWS_ALLOW_HTTP, ...), never from the URL or from a stored file.
    """

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
        if not bucket:
            raise StorageInputError(f"{url} names no bucket. Write s3://bucket/prefix.")
        super().__init__(f"s3://{bucket}/{prefix}".rstrip("/"))
        self.__store = S3Store(bucket, prefix=prefix or None)

    @property
    def _store(self) -> S3Store:
        """The client; its threads do not survive a fork, and using it then would hang.

        Raises:
            StorageInputError: in a forked child of a process that has used S3.
        """
        global _first_user
        _first_user = _first_user or os.getpid()
        if _first_user != os.getpid():
            raise StorageInputError(
                f"{self.url} cannot be read in a forked process. Start workers with `spawn` or "
                "`forkserver`, or call the reader's load_all() before they fork."
            )
        return self.__store

    def path(self, rel: str = "") -> Path | None:  # noqa: ARG002
        return None

    def read(self, path: str) -> bytes:
        try:
            return bytes(obstore.get(self._store, clean(path)).bytes())
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self.url} holds no {path}.") from error

    def write(self, path: str, data: bytes) -> None:
        obstore.put(self._store, clean(path), data)

    def create(self, path: str, data: bytes) -> bool:
        try:
            obstore.put(self._store, clean(path), data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def exists(self, path: str) -> bool:
        prefix = clean(path)
        try:
            obstore.head(self._store, prefix)
        except FileNotFoundError:
            return any(True for _ in obstore.list(self._store, prefix=prefix, chunk_size=1))
        return True

    def read_range(self, path: str, start: int, length: int) -> bytes:
        try:
            data = bytes(obstore.get_range(self._store, clean(path), start=start, length=length))
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self.url} holds no {path}.") from error
        if len(data) != length:
            raise MissingObjectError(f"{self.url}/{path} ends before byte {start + length}.")
        return data

    def walk(self, prefix: str = "") -> Iterator[tuple[str, ObjectFacts]]:
        base, is_empty = clean(prefix), True
        for batch in obstore.list(self._store, prefix=base or None, chunk_size=1000):
            for meta in batch:
                is_empty = False
                yield str(meta["path"]), _facts(meta)
        if base and is_empty:
            try:
                yield base, _facts(obstore.head(self._store, base))
            except FileNotFoundError:
                return

    def folders(self, prefix: str = "") -> list[str]:
        listing = obstore.list_with_delimiter(self._store, prefix=clean(prefix) or None)
        return sorted(
            str(path).rstrip("/").rsplit("/", 1)[-1] for path in listing["common_prefixes"]
        )

    def delete(self, prefix: str) -> None:
        base = clean(prefix)
        paths = list(self.sizes(base))
        if paths:
            obstore.delete(self._store, paths)

    def delete_unfinished(self, prefix: str) -> None:
        """Nothing to do: an interrupted upload leaves no object behind."""


def _facts(meta: "ObjectMeta") -> ObjectFacts:
    return ObjectFacts(int(meta["size"]), int(meta["last_modified"].timestamp() * 1e9))
