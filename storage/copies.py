"""A folder of local copies of remote or archived shards, kept below a size."""

import contextlib
import hashlib
import os
import secrets
import shutil
import threading
import time
from pathlib import Path

from storage.errors import StorageInputError
from storage.records import FileFact, checksum
from storage.root import Reading

_CHECK_BYTES = 4
# Two threads that make room at once would each count on the space that the other takes.
_putting = threading.Lock()
_SUFFIX = ".shard"
DEFAULT_LIMIT = 50 * 2**30
_SHARE_OF_FREE_DISK = 0.5
_ABANDONED_SECONDS = 3600


class CopyFolder:
    """Shard files by name; the least recently used go first when the limit is reached.

    Several processes may share a folder. A copy ends with a CRC-32 of itself, so one that was
    damaged or torn is noticed and fetched again.
    """

    def __init__(self, folder: str | Path | None = None, limit_bytes: int | None = None) -> None:
        """Use a folder.

        Args:
            folder, limit_bytes: see :class:`storage.root.Reading`.

        Raises:
            StorageInputError: if the folder cannot be made.
        """
        cache_home = os.environ.get("XDG_CACHE_HOME", "~/.cache")
        self.folder = Path(folder or f"{cache_home}/tintem/shards").expanduser().absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageInputError(
                f"{self.folder} cannot hold copies of shards ({error.strerror}). Name another."
            ) from error
        self._drop_unfinished()
        if limit_bytes is None:
            free = shutil.disk_usage(self.folder).free + self.size()
            limit_bytes = min(DEFAULT_LIMIT, int(free * _SHARE_OF_FREE_DISK))
        self.limit_bytes = limit_bytes
        # It may have been larger the last time.
        self._shrink(limit_bytes)

    @classmethod
    def of(cls, reading: Reading) -> "CopyFolder":
        """The folder that this machine uses."""
        return cls(reading.copies_folder, reading.copies_bytes)

    def path(self, name: str) -> Path:
        """Where the copy of a shard lies, there or not."""
        return self.folder / (hashlib.sha256(name.encode()).hexdigest()[:32] + _SUFFIX)

    def has(self, name: str, size: int) -> bool:
        """Whether an intact copy of this many bytes is there; a damaged one is removed."""
        path = self.path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return False
        kept, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if not FileFact(size, int.from_bytes(check, "little")).matches(kept):
            path.unlink(missing_ok=True)
            return False
        try:
            os.utime(path)
        except FileNotFoundError:  # another process has dropped it
            return False
        return True

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Keep a copy, whole or not at all, and make room by dropping the oldest others."""
        path = self.path(name)
        part = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
        try:
            with _putting:
                self._shrink(self.limit_bytes - len(data) - _CHECK_BYTES)
                with part.open("wb") as file:
                    file.write(data)
                    file.write(checksum(data).to_bytes(_CHECK_BYTES, "little"))
                part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise StorageInputError(
                f"{self.folder} cannot take a copy of {len(data)} bytes ({error.strerror}). "
                "Lower the limit of the copies folder, or use another disk."
            ) from error

    def size(self) -> int:
        """Bytes of all copies."""
        return sum(size for _, size, _ in self._copies())

    def _shrink(self, room: int) -> None:
        copies = sorted(self._copies())
        total = sum(size for _, size, _ in copies)
        for _, size, path in copies:
            if total <= room:
                break
            path.unlink(missing_ok=True)
            total -= size

    def _drop_unfinished(self) -> None:
        """Remove what processes left that were killed while they wrote a copy."""
        for part in self.folder.glob(f".*{_SUFFIX}.*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                    part.unlink()

    def _copies(self) -> list[tuple[int, int, Path]]:
        found = []
        for path in self.folder.glob(f"[!.]*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime_ns, status.st_size, path))
        return found
