"""Images inside tar shards, as WebDataset lays them out: files of one sample share a stem."""

import io
import itertools
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import polars as pl

from storage.errors import MissingObjectError, SourceError
from storage.images.select import file_splits, matching_files
from storage.images.source import ENTRY_SCHEMA, IMAGE_SUFFIXES, Head, ImageReader, SourceConfig
from storage.root import Root

_LABEL_SUFFIXES = (".cls", ".json", ".txt")
# A remote archive is read through where it is listed.
_REMOTE_IMAGES = 100
_MEMBERS_LOOKED_AT = 200


class TarReader(ImageReader):
    """Uris are ``shard.tar#offset+size/member``: an image is one read at a known place."""

    def __init__(self, source: SourceConfig) -> None:
        super().__init__(source)
        self._root, self._files = matching_files(source, ".tar")

    def read(self, uri: str) -> bytes:
        path, _, place = uri.partition("#")
        try:
            offset, size = place.partition("/")[0].split("+")
            return self._root.read_range(path, int(offset), int(size))
        except ValueError as error:
            raise MissingObjectError(f"{uri!r} is no place in a tar shard.") from error

    def entries(self) -> pl.DataFrame:
        return self._listed(None)[0]

    def head(self, most: int, /) -> Head:
        if self._root.path() is None:
            most = min(most, _REMOTE_IMAGES)
        entries, seen = self._listed(most)
        share = seen / sum(fact.bytes for fact in self._files.values())
        if share == 1:
            return Head.of(entries)
        splits = file_splits(list(self._files), self.source.uri).values()
        named = frozenset(split for split in splits if split)
        return Head(entries, round(entries.height / share), False, named)

    def columns(self) -> pl.DataFrame:
        """Fields of the first .json files; none where .cls files give the labels."""
        records: list[dict[str, Any]] = []
        with self._opened(next(iter(self._files))) as (_, tar):
            for member in itertools.islice(tar, _MEMBERS_LOOKED_AT):
                suffix = _suffix(member.name)
                if suffix == ".cls":
                    return pl.DataFrame()
                if suffix == ".json" and (stream := tar.extractfile(member)) is not None:
                    records.append(_plain_fields(stream.read()))
        return pl.DataFrame(records, infer_schema_length=None, strict=False)

    def _listed(self, most: int | None) -> tuple[pl.DataFrame, int]:
        """Entries, at most so many, and how many bytes of archives were looked at."""
        splits = file_splits(list(self._files), self.source.uri)
        rows: list[dict[str, Any]] = []
        seen = 0
        for path, fact in self._files.items():
            images, is_whole, place = self._images(path, most and most - len(rows))
            for member, offset, size, label in images:
                rows.append(
                    {
                        "uri": f"{path}#{offset}+{size}/{member}",
                        "bytes": size,
                        "modified": fact.modified,
                        "label": None if self.source.labels == "none" else label,
                        "split": splits[path],
                    }
                )
            seen += fact.bytes if is_whole else place
            if not is_whole or len(rows) == most:
                break
        if not rows:
            raise SourceError(
                f"{self.source.uri} holds no images (looked for {', '.join(IMAGE_SUFFIXES)}). "
                "Correct the source's uri."
            )
        return pl.DataFrame(rows, schema=ENTRY_SCHEMA), seen

    def _images(
        self, path: str, most: int | None
    ) -> tuple[list[tuple[str, int, int, str | None]], bool, int]:
        """Name, offset, size, label of images; whether these are all; where the listing ended."""
        labels: dict[str, str] = {}
        images: list[tuple[str, int, int]] = []
        is_whole, place = True, 0
        with self._opened(path) as (stream, tar):
            for member in tar:
                if not member.isfile():
                    continue
                suffix = _suffix(member.name)
                if suffix in IMAGE_SUFFIXES:
                    # Only here, as the label of the last one may follow it.
                    if len(images) == most:
                        is_whole, place = False, member.offset
                        break
                    images.append((member.name, member.offset_data, member.size))
                elif suffix in _LABEL_SUFFIXES and self.source.labels != "none":
                    label = self._label(suffix, tar.extractfile(member))
                    if label is not None:
                        labels[_stem(member.name)] = label
            if is_whole:
                _refuse_early_end(stream, tar.offset)
        found = [(name, offset, size, labels.get(_stem(name))) for name, offset, size in images]
        return found, is_whole, place

    @contextmanager
    def _opened(self, path: str) -> Iterator[tuple[IO[bytes], tarfile.TarFile]]:
        try:
            with (
                self._stream(path) as stream,
                # Names need not be UTF-8, and uris must: the name only decorates the place.
                tarfile.open(fileobj=stream, mode="r:", errors="backslashreplace") as tar,
            ):
                yield stream, tar
        except tarfile.TarError as error:
            raise SourceError(
                f"{self._root.url}/{path} is not a readable tar ({error}). Make it again."
            ) from error

    def _label(self, suffix: str, stream: IO[bytes] | None) -> str | None:
        wanted = self.source.label_column
        if stream is None or (suffix == ".txt" and wanted != "txt"):
            return None
        text = stream.read().decode(errors="replace").strip()
        if suffix != ".json":
            return text
        try:
            found = json.loads(text).get(wanted or "label")
        except (ValueError, AttributeError):
            return None
        return None if found is None else str(found)

    def _stream(self, path: str) -> IO[bytes]:
        local = self._root.path(path)
        if local is not None:
            return local.open("rb")
        size = self._files[path].bytes
        return io.BufferedReader(_RemoteFile(self._root, path, size), buffer_size=2**20)


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
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"neither a file nor the archive's end at byte {place}")


def _stem(name: str) -> str:
    """What the files of one sample share: the path up to the first dot of the file's name."""
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.split('.')[0]}"


def _suffix(name: str) -> str:
    return "." + name.rsplit(".", 1)[-1].lower()


def _plain_fields(text: bytes) -> dict[str, str | int]:
    """Fields of a JSON record that can be labels."""
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    fields = record.items() if isinstance(record, dict) else ()
    return {name: value for name, value in fields if isinstance(value, str | int)}
