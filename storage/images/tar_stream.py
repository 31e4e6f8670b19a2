"""The bytes of tar shards: local or remote, one archive or several joined end to end."""

import io
import tarfile
from collections.abc import Generator
from typing import IO, Any

from storage.errors import SourceError
from storage.root import Root

_ZEROS = bytes(tarfile.BLOCKSIZE)
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
}
COMPRESSED_SUFFIXES = {
    ".gz": "gunzip", ".tgz": "gunzip", ".zst": "unzstd", ".tzst": "unzstd", ".bz2": "bunzip2",
    ".tbz2": "bunzip2", ".xz": "unxz", ".txz": "unxz",
}  # fmt: skip
"""Suffixes of compressed tars, and the program that unpacks them."""


def refuse_compressed(where: str, program: str) -> None:
    """Raises SourceError with the cure."""
    raise SourceError(
        f"{where} is a compressed tar, in which an image cannot be read by itself. Unpack it with "
        f"{program} into a .tar: images are compressed already, so that it stays about as large."
    )


def open_stream(root: Root, path: str, size: int) -> IO[bytes]:
    """A shard's bytes, which are fetched in pieces where they are remote."""
    local = root.path(path)
    if local is not None:
        return local.open("rb")
    return io.BufferedReader(_RemoteFile(root, path, size), buffer_size=2**20)


def archives(stream: IO[bytes], where: str) -> Generator[tarfile.TarFile, None, None]:
    """The archives in a file, each of which must be read whole before the next is asked for.

    Raises:
        SourceError: if the file is compressed, damaged or cut.
    """
    head = stream.read(6)
    for magic, program in _COMPRESSED.items():
        if head.startswith(magic):
            refuse_compressed(where, program)
    place = 0
    try:
        while True:
            stream.seek(place)
            # Names need not be UTF-8, and uris must: the name only decorates the place.
            with tarfile.open(fileobj=stream, mode="r:", errors="backslashreplace") as tar:
                yield tar
                end = tar.offset
            _refuse_early_end(stream, end)
            following = _next_block(stream, end)
            if following is None:
                return
            place = following
    except tarfile.TarError as error:
        raise SourceError(f"{where} is not a readable tar ({error}). Make it again.") from error


class _RemoteFile(io.RawIOBase):
    """A remote object read by ranges, so that listing a tar need not hold it in memory."""

    def __init__(self, root: Root, path: str, size: int) -> None:
        self._root, self._path, self._size, self._place = root, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self._size - self._place))
        if length:
            buffer[:length] = self._root.read_range(self._path, self._place, length)
        self._place += length
        return length


def _refuse_early_end(stream: IO[bytes], place: int) -> None:
    """Raises tarfile.ReadError unless the archive ends where its members do.

    tarfile takes a damaged header, or the end of a file that was cut, for the end of the archive,
    and what follows would be lost without a word. Every writer ends with a block of zeros.
    """
    stream.seek(place)
    if stream.read(tarfile.BLOCKSIZE) != _ZEROS:
        raise tarfile.ReadError(f"neither a file nor the archive's end at byte {place}")


def _next_block(stream: IO[bytes], place: int) -> int | None:
    """Where the next archive begins: at the first block that is not zeros; None at the end."""
    stream.seek(place)
    while block := stream.read(tarfile.BLOCKSIZE):
        if block.strip(b"\0"):
            return place
        place += len(block)
    return None
