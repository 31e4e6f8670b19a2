"""A root on an S3 object store, through obstore."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from storage.errors import (
    DeniedError,
    MissingObjectError,
    StorageError,
    StorageInputError,
    UnreachableError,
)
from storage.root.base import ObjectFacts, Root, clean_path

if TYPE_CHECKING:
    # obstore has these in its type stubs only.
    from obstore import ObjectMeta
    from obstore.store import RetryConfig

# None: as patient as obstore is by default, some minutes.
_RETRY: "RetryConfig | None" = None
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
        self.__store = S3Store(bucket, prefix=prefix or None, retry_config=_RETRY)

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
            with self._translate_errors():
                return bytes(obstore.get(self._store, clean_path(path)).bytes())
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self.url} holds no {path}.") from error

    def write(self, path: str, data: bytes) -> None:
        with self._translate_errors():
            obstore.put(self._store, clean_path(path), data)

    def create(self, path: str, data: bytes) -> bool:
        try:
            with self._translate_errors():
                obstore.put(self._store, clean_path(path), data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # The store may have done what it was asked, and its answer was lost before a retry.
            return self.read_or_none(path) == data
        return True

    def exists(self, path: str) -> bool:
        prefix = clean_path(path)
        try:
            with self._translate_errors():
                obstore.head(self._store, prefix)
        except FileNotFoundError:
            with self._translate_errors():
                return any(True for _ in obstore.list(self._store, prefix=prefix, chunk_size=1))
        return True

    def read_range(self, path: str, start: int, length: int) -> bytes:
        try:
            with self._translate_errors():
                found = obstore.get_range(self._store, clean_path(path), start=start, length=length)
            data = bytes(found)
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self.url} holds no {path}.") from error
        if len(data) != length:
            raise MissingObjectError(f"{self.url}/{path} ends before byte {start + length}.")
        return data

    def walk(self, prefix: str = "") -> Iterator[tuple[str, ObjectFacts]]:
        base, is_empty = clean_path(prefix), True
        with self._translate_errors():
            for batch in obstore.list(self._store, prefix=base or None, chunk_size=1000):
                for meta in batch:
                    is_empty = False
                    yield str(meta["path"]), _facts(meta)
        if base and is_empty:
            try:
                with self._translate_errors():
                    yield base, _facts(obstore.head(self._store, base))
            except FileNotFoundError:
                return

    def folders(self, prefix: str = "") -> list[str]:
        with self._translate_errors():
            listing = obstore.list_with_delimiter(self._store, prefix=clean_path(prefix) or None)
        return sorted(
            str(path).rstrip("/").rsplit("/", 1)[-1] for path in listing["common_prefixes"]
        )

    def delete(self, prefix: str) -> None:
        base = clean_path(prefix)
        paths = list(self.sizes(base))
        if paths:
            with self._translate_errors():
                obstore.delete(self._store, paths)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise what the store refuses as an error with a cure; a missing object stays as it is.

        Raises:
            StorageInputError: if there is no such bucket; DeniedError: if rights are lacking;
            UnreachableError: if the store cannot be reached, or answers with anything else.
        """
        try:
            yield
        except AlreadyExistsError:
            raise
        except (BaseError, FileNotFoundError) as error:
            problem = _problem(self.url, error)
            if problem is None:
                raise
            raise problem from error

    def unfinished(self, prefix: str = "") -> dict[str, ObjectFacts]:  # noqa: ARG002
        """Nothing: an interrupted upload leaves no object behind."""
        return {}


def _facts(meta: "ObjectMeta") -> ObjectFacts:
    return ObjectFacts(int(meta["size"]), int(meta["last_modified"].timestamp() * 1e9))


def _problem(url: str, error: Exception) -> StorageError | None:
    """What an error of the store means to its user; None for a missing object."""
    text = str(error)
    bucket = url.removeprefix("s3://").partition("/")[0]
    if "NoSuchBucket" in text:
        return StorageInputError(f"{url}: there is no bucket {bucket}. Make it, or mend the URL.")
    if isinstance(error, FileNotFoundError):
        return None
    is_denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    # obstore reports a refused listing as a generic error.
    if is_denied or "403 Forbidden" in text or "401 Unauthorized" in text:
        return DeniedError(
            f"{url}: access is denied. Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and "
            f"what they may do in {bucket}."
        )
    if "169.254.169.254" in text:
        return StorageInputError(
            f"{url}: there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if "incorrectly configured region" in text:
        return StorageInputError(f"{url}: the bucket is in another region. Set AWS_REGION.")
    if "HTTP error" in text:
        where = os.environ.get("AWS_ENDPOINT_URL", "its endpoint")
        return UnreachableError(
            f"{url}: {where} cannot be reached. Check AWS_ENDPOINT_URL (http:// also needs "
            "AWS_ALLOW_HTTP=true) and the network."
        )
    first = text.partition("<?xml")[0].partition("\n")[0].strip()
    return UnreachableError(f"{url}: the object store answered: {first} Try again later.")
