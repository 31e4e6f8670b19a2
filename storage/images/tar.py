"""Images inside tar shards, as WebDataset lays them out: files of one sample share a name.

The name of a sample is the path of its files up to the first dot of the base name; what follows is
the extension. ``cats/a.b/001.seg.png`` is the file ``seg.png`` of the sample ``cats/a.b/001``.
"""

import itertools
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import IO, Any

import polars as pl

from storage.errors import MissingObjectError, SourceError
from storage.images.labels import LabelColumn, as_notes
from storage.images.select import file_splits, is_hidden, looked_for, matching_files, suffix_of
from storage.images.source import (
    ENTRY_SCHEMA,
    IMAGE_SUFFIXES,
    MOST_BYTES,
    TOO_LARGE,
    ImageReader,
    SourceConfig,
)
from storage.images.tar_stream import archives, open_stream

_LABEL_SUFFIXES = (".cls", ".json", ".txt")
_MEMBERS_LOOKED_AT = 200
_MOST_LABEL_BYTES = 16 * 2**20


@dataclass
class _Sample:
    """The files of a sample that are looked at: images and labels, by extension."""

    images: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """Name, offset and size."""
    labels: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    """What is asked for of the fields of its .json files."""


_Noting = Callable[[bytes], dict[str, str]]
"""From the text of a .json file to what is asked for of it."""


class TarReader(ImageReader):
    """Uris are ``shard.tar#offset+size/member``: an image is one read at a known place."""

    def __init__(self, source: SourceConfig) -> None:
        super().__init__(source)
        self._root, self._files = matching_files(source, ".tar")

    def read(self, uri: str) -> bytes:
        # Names of shards and of members may hold anything.
        for place in re.finditer(r"#(\d+)\+(\d+)(/|$)", uri):
            if uri[: place.start()] in self._files:
                return self._root.read_range(uri[: place.start()], int(place[1]), int(place[2]))
        raise MissingObjectError(f"{uri!r} is no place in a tar shard of {self._root.url}.")

    def entries(self) -> pl.DataFrame:
        self.skipped.clear()
        splits = file_splits(list(self._files), self.source.uri)
        rows: list[dict[str, Any]] = []
        for path, fact in self._files.items():
            where = f"{self._root.url}/{path}"
            for name, sample, uri, size in self._images(path):
                rows.append(
                    {
                        "uri": uri,
                        "bytes": size,
                        "modified": fact.modified,
                        "label": self._label(name, sample, where),
                        "split": splits[path],
                    }
                )
        if not rows:
            chosen = self.source.image_column
            wanted = f" with the extension {chosen}" if chosen else ""
            raise SourceError(
                f"{self.source.uri} holds no images{wanted} {looked_for(self.skipped)}. "
                + ("Correct image_column." if chosen else "Correct the source's uri.")
            )
        return pl.DataFrame(rows, schema=ENTRY_SCHEMA)

    def columns(self) -> pl.DataFrame:
        """Fields of the first .json files; none where .cls files give the labels."""
        records: list[dict[str, Any]] = []
        path = next(iter(self._files))
        with (
            open_stream(self._root, path, self._files[path].bytes) as stream,
            closing(archives(stream, f"{self._root.url}/{path}")) as tars,
        ):
            tar = next(tars)
            for member in itertools.islice(tar, _MEMBERS_LOOKED_AT):
                if suffix_of(member.name) == ".cls":
                    return pl.DataFrame()
                if suffix_of(member.name) == ".json" and member.size <= _MOST_LABEL_BYTES:
                    fields = _fields(_content(tar, member))
                    plain = {n: v for n, v in fields.items() if isinstance(v, str | int)}
                    records.append(plain)
        return pl.DataFrame(records, infer_schema_length=None, strict=False)

    def notes(self, columns: Sequence[str], _files: int | None = None, /) -> pl.DataFrame:
        there: dict[str, None] = {}

        def noting(text: bytes) -> dict[str, str]:
            fields = {name: _spelled(value) for name, value in _fields(text).items()}
            there.update(dict.fromkeys(fields))
            return {name: fields[name] for name in columns if name in fields}

        rows = [
            {"uri": uri, **sample.notes}
            for path in itertools.islice(self._files, _files)
            for _, sample, uri, _ in self._images(path, noting)
        ]
        where = self.source.uri
        for name in columns:
            _refuse_unknown(name, list(there), where)
        table = pl.DataFrame(rows, schema=dict.fromkeys(("uri", *columns), pl.String))
        notes = {name: as_notes(LabelColumn(where, table[name])) for name in columns}
        return table.with_columns(**notes)

    def _images(
        self, path: str, noting: _Noting | None = None
    ) -> Iterator[tuple[str, _Sample, str, int]]:
        """Samples with an image: name, what is known of it, the image's uri and size."""
        where = f"{self._root.url}/{path}"
        with open_stream(self._root, path, self._files[path].bytes) as stream:
            # Archives joined end to end may use the same names again.
            for tar in archives(stream, where):
                samples: dict[str, _Sample] = {}
                try:
                    for member in tar:
                        self._look(tar, member, samples, where, noting)
                except tarfile.TarError as error:
                    raise SourceError(
                        f"{where} is not a readable tar ({error}). Make it again."
                    ) from error
                for name, sample in samples.items():
                    if sample.images:
                        image = self._image(name, sample, where)
                        if image is not None:
                            member_name, offset, size = image
                            yield name, sample, f"{path}#{offset}+{size}/{member_name}", size

    def _look(
        self,
        tar: tarfile.TarFile,
        member: tarfile.TarInfo,
        samples: dict[str, _Sample],
        where: str,
        noting: _Noting | None,
    ) -> None:
        """Note a member in its sample, or among the skipped ones."""
        if member.isdir():
            return
        suffix = suffix_of(member.name)
        is_label = suffix in _LABEL_SUFFIXES
        if is_hidden(member.name):
            self.skipped["hidden"] += 1
        elif not member.isreg() or member.issparse():
            self.skipped["links or sparse files in a tar"] += 1
        elif not is_label and suffix not in IMAGE_SUFFIXES:
            self.skipped[suffix or "without a suffix"] += 1
        elif member.size > (_MOST_LABEL_BYTES if is_label else MOST_BYTES):
            self.skipped["labels larger than 16 MiB" if is_label else TOO_LARGE] += 1
        else:
            name, extension = _parts(member.name)
            sample = samples.setdefault(name, _Sample())
            if extension in sample.images or extension in sample.labels:
                raise SourceError(
                    f"{where} holds {member.name} twice: the files of a sample are told apart by "
                    "what follows the first dot of their names. Rename one of them."
                )
            if noting is not None and extension.endswith("json"):
                sample.notes |= noting(_content(tar, member))
            if not is_label:
                sample.images[extension] = (member.name, member.offset_data, member.size)
            elif self.source.labels != "none":
                label = self._read_label(extension, tar.extractfile(member))
                if label is not None:
                    sample.labels[extension] = label

    def _image(self, name: str, sample: _Sample, where: str) -> tuple[str, int, int] | None:
        chosen = self.source.image_column
        images = sample.images
        if chosen is not None:
            left = [extension for extension in images if extension != chosen.lstrip(".").lower()]
            self.skipped.update(f".{suffix}" for suffix in left)
            images = {e: image for e, image in images.items() if e not in left}
        if len(images) > 1:
            first, second, *_ = sorted(images)
            raise SourceError(
                f"{where}: the sample {name} has {len(images)} images, {first} and {second} among "
                "them. Name the extension of the photos in image_column, or, if each is a photo of "
                "its own, rename them: a sample's name ends at the first dot."
            )
        return next(iter(images.values()), None)

    def _label(self, name: str, sample: _Sample, where: str) -> str | None:
        labels, wanted = sample.labels, self.source.label_column
        if wanted is not None and any(extension.endswith("json") for extension in labels):
            labels = {e: label for e, label in labels.items() if e.endswith("json")}
        if len(set(labels.values())) > 1:
            first, second, *_ = sorted(labels)
            raise SourceError(
                f"{where}: the sample {name} has {len(labels)} labels, {first} and {second} among "
                "them. Name the one that counts in label_column (cls, txt, or a key of the JSON), "
                "or rename them: a sample's name ends at the first dot."
            )
        return next(iter(labels.values()), None)

    def _read_label(self, extension: str, stream: IO[bytes] | None) -> str | None:
        """The label in a file of a sample; None where it holds none, or another is wanted."""
        wanted, kind = self.source.label_column, extension.rpartition(".")[2]
        if stream is None or (kind == "txt" and wanted != "txt"):
            return None
        if wanted in ("cls", "txt") and kind != wanted:
            return None
        text = stream.read().decode(errors="replace").strip()
        if kind != "json":
            return text or None
        try:
            found = json.loads(text).get(wanted or "label")
        except (ValueError, AttributeError):
            return None
        return None if found is None else str(found)


def _parts(member: str) -> tuple[str, str]:
    """The name of a member's sample and its extension, in lower case."""
    folder, _, file = member.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}/{stem}".removeprefix("./").lstrip("/"), extension.lower()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    return b"" if stream is None else stream.read()


def _fields(text: bytes) -> dict[str, str | int | float]:
    """Fields of a JSON record that are numbers or text."""
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    fields = record.items() if isinstance(record, dict) else ()
    return {name: value for name, value in fields if isinstance(value, str | int | float)}


def _spelled(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def _refuse_unknown(name: str, there: list[str], where: str) -> None:
    if name not in there:
        known = f"their fields are {', '.join(there)}" if there else "there are none"
        raise SourceError(
            f"{where} has no {name!r} in its .json files; {known}. Name the right one."
        )
