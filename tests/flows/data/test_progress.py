"""How far a training is, whatever its files hold."""

from pathlib import Path

import pytest

from flows.data.progress import (
    checkpoint_folder,
    checkpoint_suffix,
    damaged_parts,
    is_own_checkpoint,
    read_progress,
    save_progress,
)
from storage.root import open_root


def test_the_share_of_the_steps_is_read_back(tmp_path: Path) -> None:
    root = open_root(tmp_path)
    assert read_progress(root, "s") is None
    save_progress(root, "s", 3, 12)
    assert read_progress(root, "s") == 0.25
    assert damaged_parts(root, "s") == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"step": 3}',
        b'{"step": 3, "total": 0}',
        b'{"step": "3", "total": 4}',
        b'{"step": 5, "total": 4}',
        b'{"step": -1, "total": 4}',
    ],
)
def test_what_cannot_be_progress_is_none_and_is_named(tmp_path: Path, content: bytes) -> None:
    root = open_root(tmp_path)
    root.write("students/s/progress.json", content)
    assert read_progress(root, "s") is None
    assert damaged_parts(root, "s").keys() == {"students/s/progress.json"}


def test_a_checkpoint_is_that_of_one_student_and_of_its_bytes(tmp_path: Path) -> None:
    root = open_root(tmp_path)
    path = f"{checkpoint_folder('s')}/step-000000001{checkpoint_suffix('s', b'weights')}"
    assert is_own_checkpoint("s", path, b"weights")
    assert not is_own_checkpoint("s", path, b"weighty")
    assert not is_own_checkpoint("another", path, b"weights")
    # As an earlier release named it.
    assert is_own_checkpoint("s", "step-000000001-1ad27358.pt", b"weights")
    root.write(path, b"weights")
    assert damaged_parts(root, "s") == {}
    root.write(path, b"weight")
    assert damaged_parts(root, "s").keys() == {path}
