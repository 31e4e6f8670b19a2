"""The checkpoints of a student in training: the last two are kept, the newest usable one counts."""

from flows.data.progress import (
    checkpoint_folder,
    checkpoint_suffix,
    is_own_checkpoint,
    progress_path,
    save_progress,
)
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
    for path in sorted(root.list(checkpoint_folder(student_id)), reverse=True):
        data = root.read(path)
        try:
            if not is_own_checkpoint(student_id, path, data):
                raise TintemError("its bytes are not the ones that were written")
            run.restore(data)
        except TintemError as error:
            reporter().note(f"{path} is not usable ({error}): trying an older one")
            continue
        return data
    return None


def save_checkpoint(root: Root, student_id: str, step: int, total: int, data: bytes) -> None:
    """Store a checkpoint, say how far the training is, and drop the oldest."""
    folder = checkpoint_folder(student_id)
    root.write(f"{folder}/step-{step:09d}{checkpoint_suffix(student_id, data)}", data)
    save_progress(root, student_id, step, total)
    for old in sorted(root.list(folder))[:-_KEPT]:
        root.delete(old)


def drop_checkpoints(root: Root, student_id: str) -> None:
    """Forget the checkpoints of a finished student."""
    for leftover in (checkpoint_folder(student_id), progress_path(student_id)):
        root.delete(leftover)
