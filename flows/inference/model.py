"""What embeds photos: an exported student in ONNX Runtime, without torch.

Legend: ``B`` batch, ``K`` student width, ``S`` side in pixels.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storage.artifacts import RECORD, parse_artifact, read_file, read_record
from storage.errors import CorruptError, MissingObjectError, StorageInputError
from storage.root import Root
from tintem_core.export.runtime import SCORE, outputs_of, session
from tintem_core.views import Pixels

_BATCH = 32
# What tells most; then what takes the fewest bytes, and prepares them inside.
_PREFERRED = ("ood", "uint8", "onnx")


class Answer(NamedTuple):
    """What a model tells of a batch: the embedding (B, K), maybe ``ood_score`` (B,)."""

    embedding: NDArray[np.float32]
    score: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class PhotoModel:
    """A model that is ready to embed photos."""

    name: str
    id: str
    """Of the export."""
    identity: str
    """Digest of all that determines an embedding, apart from the pixels."""
    image_size: int
    """S of the photo's central square."""
    bits: int | None
    """How many bits are in use in grey values that are stored in more than 8."""
    width: int
    """K."""
    embed: Callable[[Pixels], Answer]
    """Takes uint8 images (B, S, S, 3)."""
    has_score: bool = False
    threshold: float | None = None
    """The smallest score that is not strange."""
    batch_size: int = _BATCH
    at_once: int = 1
    """How many threads should call :attr:`embed` at the same time."""


def open_export(place: str) -> PhotoModel:
    """Open an exported student.

    Args:
        place: the folder of an export, or an ONNX file inside one.

    Raises:
        StorageInputError: if it is none, or its file is not the one that was published.
    """
    path = Path(place).expanduser()
    folder = path if path.is_dir() else _folder_above(path)
    record = _record(folder)
    name = _file(record) if path.is_dir() else str(path.relative_to(folder))
    if name not in {form["file"] for form in record["formats"].values()} or not name.endswith(
        ".onnx"
    ):
        raise StorageInputError(
            f"{folder / name} takes no photos: give the folder, or one of its "
            f"{', '.join(_onnx_files(record))}."
        )
    model = (folder / name).read_bytes() if (folder / name).is_file() else b""
    if hashlib.sha256(model).hexdigest() != record["files"][name]["sha256"]:
        raise StorageInputError(
            f"{folder / name} is missing, or not the file that was published: fetch the folder "
            f"again. `tintem verify {folder}` looks at all of it."
        )
    return _opened(record, name, model)


def open_stored_export(root: Root, id: str) -> PhotoModel:
    """Open an export of a root, which may be a bucket.

    Raises:
        MissingObjectError: if it is not there.
        CorruptRecordError: if its file is not the one that was published.
        StorageInputError: if an older release made it.
    """
    record = read_record(root, "exports", id)
    if record is None:
        raise MissingObjectError(f"{root.url} holds no complete exports/{id}: export it again.")
    _refuse_old(record, f"{root.url}/exports/{id}")
    name = _file(record)
    return _opened(record, name, read_file(root, "exports", id, name))


def _opened(record: dict[str, Any], name: str, model: bytes) -> PhotoModel:
    # Each batch is the work of one thread: none waits for another.
    opened = session(model, threads=1)
    has_score = SCORE in [output.name for output in opened.get_outputs()[1:2]]

    def embed(pixels: Pixels) -> Answer:
        embedding, *others = outputs_of(opened, pixels, record["normalisation"])
        return Answer(embedding, others[0] if has_score else None)

    return PhotoModel(
        name=f"{record['id']}/{name}",
        id=record["id"],
        identity=record["files"][name]["sha256"],
        image_size=record["image_size"],
        bits=record["bits"],
        width=record["width"],
        embed=embed,
        has_score=has_score,
        threshold=record["ood"]["threshold"] if has_score else None,
        at_once=os.cpu_count() or 1,
    )


def _folder_above(path: Path) -> Path:
    if not path.is_file():
        raise StorageInputError(f"there is no {path}: {_CURE}.")
    found = [each for each in path.parents[:2] if (each / RECORD).is_file()]
    if path.suffix != ".onnx" or not found:
        raise StorageInputError(f"{path} is no ONNX file of an export: {_CURE}.")
    return found[0]


def _record(folder: Path) -> dict[str, Any]:
    try:
        data = (folder / RECORD).read_bytes()
    except OSError as error:
        raise StorageInputError(f"{folder} is no export: {_CURE}.") from error
    try:
        record = parse_artifact(data, str(folder / RECORD))
    except CorruptError as error:
        raise StorageInputError(f"{folder / RECORD} is damaged: fetch the folder again.") from error
    if record.get("kind") != "exports":
        raise StorageInputError(f"{folder} is no export: {_CURE}.")
    _refuse_old(record, folder)
    return record


def _refuse_old(record: dict[str, Any], place: object) -> None:
    if "formats" not in record:
        raise StorageInputError(
            f"{place} was exported by a release that did not say what is in it: export it again."
        )


def _file(record: dict[str, Any]) -> str:
    held = [record["formats"][form]["file"] for form in _PREFERRED if form in record["formats"]]
    return str((held or _onnx_files(record) or ["student.onnx"])[0])


def _onnx_files(record: dict[str, Any]) -> list[str]:
    files = [str(form["file"]) for form in record["formats"].values()]
    return [file for file in files if file.endswith(".onnx")]


_CURE = "give the folder of a student, exports/ID, as `tintem status` lists it"
