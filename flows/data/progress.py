"""How far a training is and where its checkpoints lie, read without torch."""

import json
import zlib

from storage.errors import CorruptError
from storage.records import parse_record
from storage.root import Root


def checkpoint_folder(student_id: str) -> str:
    """Return where the checkpoints of a student lie, below the root."""
    return f"students/{student_id}/checkpoints"


def progress_path(student_id: str) -> str:
    """Return where it is told how far a student is, below the root."""
    return f"students/{student_id}/progress.json"


def checkpoint_suffix(student_id: str, data: bytes) -> str:
    """Return how the name of a checkpoint ends.

    torch loads most damaged checkpoints without a word, and those of another student of the same
    shape: the name tells a checksum of both.
    """
    return f"-{zlib.crc32(data, zlib.crc32(student_id.encode())):08x}.pt"


def is_own_checkpoint(student_id: str, path: str, data: bytes) -> bool:
    """Whether a checkpoint holds the bytes that were written for this student."""
    # Earlier releases left the student out.
    return path.endswith((checkpoint_suffix(student_id, data), f"-{zlib.crc32(data):08x}.pt"))


def save_progress(root: Root, student_id: str, step: int, total: int) -> None:
    """Tell how far a training is."""
    root.write(progress_path(student_id), json.dumps({"step": step, "total": total}).encode())


def read_progress(root: Root, student_id: str) -> float | None:
    """Return the share of its steps that a student has taken; None where that is not known."""
    data = root.read_or_none(progress_path(student_id))
    try:
        told = {} if data is None else parse_record(data, progress_path(student_id))
    except CorruptError:
        return None
    step, total = told.get("step"), told.get("total")
    if not (isinstance(step, int) and isinstance(total, int) and 0 <= step <= total):
        return None
    return step / total if total else None


def damaged_parts(root: Root, student_id: str) -> dict[str, str]:
    """Return what is wrong with the checkpoints of a training and what is told of it, by path."""
    found = {}
    for path in root.list(checkpoint_folder(student_id)):
        if not is_own_checkpoint(student_id, path, root.read_or_none(path) or b""):
            found[path] = "its checksum differs; the training goes on from an older one, or afresh"
    path = progress_path(student_id)
    if root.exists(path) and read_progress(root, student_id) is None:
        found[path] = "it cannot be read; the next checkpoint writes it anew"
    return found
