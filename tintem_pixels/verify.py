"""Check an exported student on this machine: ONNX Runtime and NumPy, nothing of TinTeM.

    python verify.py [FOLDER]

The same file lies in every export, and needs no other. It compares each file with its digest in
`record.json`, and what each ONNX file says of the photos in `vectors.npz` with the embeddings
there.
Exit codes: 0 all as it was published, 1 something differs, 2 there is nothing to check.

Legend: ``B`` batch, ``K`` student width, ``S`` side in pixels.
"""

import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

RECORD, VECTORS = "record.json", "vectors.npz"


class NoExportError(ValueError):
    """A folder that holds nothing to check; the message says why."""


class _CannotRunError(RuntimeError):
    """A file that ONNX Runtime cannot run on this machine."""


@dataclass
class Findings:
    """What was found."""

    lines: list[str] = field(default_factory=list)
    """A sentence for each thing that is as it should be."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each that is not."""


def check(folder: str | Path) -> Findings:
    """Compare an export with its record.

    Args:
        folder: of one export, ``exports/ID``.

    Raises:
        NoExportError: if it is none.
    """
    folder = Path(folder)
    record = _record(folder)
    damaged = {}
    for name, told in record["files"].items():
        path = folder / name
        if not path.is_file():
            damaged[name] = f"{name} is missing"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != told["sha256"]:
            damaged[name] = f"{name} is not the file that was published: its digest differs"
    files = len(record["files"])
    found = Findings(problems=list(damaged.values()))
    found.lines.append(f"{files - len(damaged)} of {files} files have the digests of {RECORD}")
    # Bytes that differ from their digest are not handed to a decoder.
    if VECTORS in damaged:
        return found
    with np.load(folder / VECTORS, allow_pickle=False) as vectors:
        images, wanted = vectors["images"], vectors["embeddings"]
    for told in record["formats"].values():
        if told["file"].endswith(".onnx") and told["file"] not in damaged:
            _try(folder, told, record["normalisation"], images, wanted, found)
    return found


def _record(folder: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        _require_whole(record)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoExportError(
            f"{folder} is no export: it holds no {RECORD}. Give the folder of a student, exports/ID"
        ) from error
    except ValueError as error:
        raise NoExportError(f"{folder / RECORD} is damaged: fetch the folder again") from error
    if VECTORS not in record.get("files", {}):
        raise NoExportError(
            f"{folder} holds no {VECTORS}: it was exported by a release that wrote none. "
            "Export the student again"
        )
    return record


def _require_whole(record: dict[str, Any]) -> None:
    """Raises ValueError unless a record is as it was written; see `storage.records.seal`."""
    if not isinstance(record, dict):
        raise ValueError("no object")
    # Earlier releases wrote no check: their records end with the files.
    if [*record][-1:] == ["files"]:
        return
    check = record.pop("check", None)
    spelled = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    if check != hashlib.sha256(spelled.encode()).hexdigest()[:16]:
        raise ValueError("its check does not match its content")


def _try(
    folder: Path,
    told: dict[str, Any],
    normalisation: dict[str, list[float]],
    images: NDArray[np.uint8],
    wanted: NDArray[np.float32],
    found: Findings,
) -> None:
    name = told["file"]
    try:
        provider, embeddings = _run(folder / name, normalisation, images)
    except _CannotRunError as error:
        found.problems.append(f"{name} cannot be run here: {error}")
        return
    norms = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(wanted, axis=1)
    cosines = (embeddings.astype(np.float64) * wanted).sum(axis=1) / norms
    smallest, least = float(cosines.min()), told["minimum_cosine"]
    said = (
        f"{name}: {provider}, {len(images)} photos, "
        f"smallest cosine {smallest:.6f} (wanted {least:g})"
    )
    # Not "smaller than": what is no number must not pass.
    (found.lines if smallest >= least else found.problems).append(said)


def _run(
    model: Path, normalisation: dict[str, list[float]], images: NDArray[np.uint8]
) -> tuple[str, NDArray[np.float32]]:
    """Return who computed, and the embeddings (B, K)."""
    try:
        session = onnxruntime.InferenceSession(str(model), providers=_providers())
        (given,) = session.get_inputs()
        feed = {given.name: _batch(given.name, images, normalisation)}
        return session.get_providers()[0], session.run(None, feed)[0]
    # A runtime that cannot run a file says so in errors of its own, of many kinds.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise _CannotRunError(reason[0]) from error


def _providers() -> list[str]:
    """Return what computes on this machine, the fastest first; Azure's sends it elsewhere."""
    return [p for p in onnxruntime.get_available_providers() if p != "AzureExecutionProvider"]


def _batch(
    name: str, images: NDArray[np.uint8], normalisation: dict[str, list[float]]
) -> NDArray[Any]:
    """Return what an input takes of uint8 images (B, S, S, 3)."""
    if name == "image":
        return images
    values = images.astype(np.float32) / np.float32(255)
    if name == "pixel_values":
        mean, std = (np.array(normalisation[name], np.float32) for name in ("mean", "std"))
        values = (values - mean) / std
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def main() -> None:
    """Check the folder that is named, or this file's own."""
    folder = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent
    try:
        found = check(folder)
    except NoExportError as error:
        sys.stderr.write(f"{error}.\n")
        sys.exit(2)
    sys.stdout.writelines(f"{line}\n" for line in found.lines)
    sys.stderr.writelines(f"{problem}\n" for problem in found.problems)
    sys.exit(1 if found.problems else 0)


if __name__ == "__main__":
    main()
