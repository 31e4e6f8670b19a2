"""One interface over a folder and an object store: things appear whole or not at all."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from storage.errors import MissingObjectError, StorageInputError

_PARALLEL_READS = 16


@dataclass(frozen=True, slots=True, order=True)
class ObjectFacts:
    """What a listing tells about an object."""

    bytes: int
    modified: int
    """Nanoseconds since 1970."""


@dataclass(frozen=True)
class Reading:
    """How this machine reads the caches of a root."""

    copies_folder: str | None = None
    """Where remote or archived shards are copied to; None: ``tintem/shards`` in the user's cache
    folder."""
    copies_bytes: int | None = None
    """The oldest copies go above this; None: 50 GiB, or half of the disk's free space if less."""
    memory_bytes: int = 0
    """A kind of embeddings that needs no more than this is held in memory instead."""


class Root(ABC):
    """Where a project's manifests, caches, students and exports live.

    Every path is relative, with forward slashes. A root can be pickled and sent to a worker.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.reading = Reading()

    @abstractmethod
    def read(self, path: str) -> bytes:
        """All bytes of one object. Raises MissingObjectError."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Publish an object whole, replacing what was there; readers never see a part of it."""

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Publish an object unless something else lies there; False (and no change) if it does.

        Equal bytes count as one's own, whose answer was lost: what must be told apart from what
        others write carries a token.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether an object, or anything below this prefix, is there."""

    @abstractmethod
    def read_range(self, path: str, start: int, length: int) -> bytes:
        """Some bytes of one object. Raises MissingObjectError, also when it is shorter."""

    @abstractmethod
    def walk(self, prefix: str = "") -> Iterator[tuple[str, ObjectFacts]]:
        """Path, size and date of every object below a prefix, in any order, none of them kept."""

    def facts(self, prefix: str = "") -> dict[str, ObjectFacts]:
        """Size and date of every object below a prefix, by path, in path order."""
        return dict(sorted(self.walk(prefix)))

    @abstractmethod
    def folders(self, prefix: str = "") -> list[str]:
        """Names of the immediate children that hold objects, in order."""

    @abstractmethod
    def delete(self, prefix: str) -> None:
        """Remove an object and everything below it; nothing happens when it is not there."""

    @abstractmethod
    def unfinished(self, prefix: str = "") -> dict[str, ObjectFacts]:
        """What writers have begun below a prefix, or left behind when they were interrupted.

        Such parts are never listed; :meth:`delete` removes one.
        """

    def delete_unfinished(self, prefix: str) -> None:
        """Remove what interrupted writers left below a prefix."""
        for part in self.unfinished(prefix):
            self.delete(part)

    @abstractmethod
    def path(self, rel: str = "") -> Path | None:
        """The local file of this path, or None on an object store."""

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of every object below a prefix, by path, in path order."""
        return {path: fact.bytes for path, fact in self.facts(prefix).items()}

    def list(self, prefix: str = "") -> list[str]:
        """Paths of every object below a prefix, in order."""
        return list(self.sizes(prefix))

    def size(self, prefix: str = "") -> int:
        """Bytes stored below a prefix."""
        return sum(self.sizes(prefix).values())

    def read_many(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        """Bytes of many small objects in the order asked, None for those not there."""
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            return tuple(pool.map(self.read_or_none, paths))

    def read_or_none(self, path: str) -> bytes | None:
        """All bytes of one object, or None when it is not there."""
        try:
            return self.read(path)
        except MissingObjectError:
            return None

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _reopen, (type(self), self.url, self.reading)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def _reopen(kind: type[Root], url: str, reading: Reading) -> Root:
    """A root as it was when it was pickled."""
    root = kind(url)
    root.reading = reading
    return root


def clean_path(path: str) -> str:
    """A relative path in its one spelling.

    Raises:
        StorageInputError: if the path is absolute or climbs out of the root.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts:
        raise StorageInputError(f"{path!r} leaves the root. Use a relative path without '..'.")
    return "/".join(parts)
