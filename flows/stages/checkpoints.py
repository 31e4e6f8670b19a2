"""The checkpoints of a student in training: the last two are kept, the newest usable one counts."""

import json
import zlib

from flows.reporting.base import reporter
from storage.root import Root
from tintem_core.distributed import from_main, is_main
from tintem_core.errors import TintemError
from tintem_core.training.state import TrainingState

_KEPT = 2


def continue_from_newest(root: Root, student_id: str, run: TrainingState, total: int) -> None:
    """Restore a training from its newest usable checkpoint, where there is one."""
    found = from_main(_restore_newest(root, student_id, run) if is_main() else None)
    if found is None:
        return
    if not is_main():
        run.restore(found)
    reporter().note(f"student {student_id}: continuing at step {run.step:,} of {total:,}")
    if not run.is_exact:
        reporter().note(
            "the checkpoint was written by another number of processes: the weights go on, but not "
            "bit for bit"
        )


def _restore_newest(root: Root, student_id: str, run: TrainingState) -> bytes | None:
    for path in sorted(root.list(_folder(student_id)), reverse=True):
        data = root.read(path)
        try:
            if not path.endswith(_suffix(data)):
                raise TintemError("its bytes are not the ones that were written")
            run.restore(data)
        except TintemError as error:
            reporter().note(f"{path} is not usable ({error}): trying an older one")
            continue
        return data
    return None


def save_checkpoint(root: Root, student_id: str, step: int, total: int, data: bytes) -> None:
    """Store a checkpoint, say how far the training is, and drop the oldest."""
    root.write(f"{_folder(student_id)}/step-{step:09d}{_suffix(data)}", data)
    root.write(_progress(student_id), json.dumps({"step": step, "total": total}).encode())
    for old in sorted(root.list(_folder(student_id)))[:-_KEPT]:
        root.delete(old)


def drop_checkpoints(root: Root, student_id: str) -> None:
    """Forget the checkpoints of a finished student."""
    for leftover in (_folder(student_id), _progress(student_id)):
        root.delete(leftover)


def _suffix(data: bytes) -> str:
    # torch loads most damaged checkpoints without a word, so the name tells their checksum.
    return f"-{zlib.crc32(data):08x}.pt"


def _folder(student_id: str) -> str:
    return f"students/{student_id}/checkpoints"


def _progress(student_id: str) -> str:
    return f"students/{student_id}/progress.json"
