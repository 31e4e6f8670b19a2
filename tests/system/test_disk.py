"""Real disks that are full, read-only or of somebody else: a sentence, and nothing half.

Each test runs in a process of its own, which may mount: as root, or in a namespace where it is.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import load_config
from flows.stages.pipeline import Pipeline
from tests.runs import write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_COMMON = """
import os, shutil, subprocess, sys
from pathlib import Path
from flows.config.load import load_config
from flows.maintenance.status import collect
from flows.maintenance.things import check_things
from flows.stages.pipeline import Pipeline
from storage.errors import StorageError
from storage.root import open_root
from tests.runs import write_config
from tintem_core.errors import TintemError

def mount(place, *options):
    Path(place).mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", place], check=True)

def failing(work, cause=OSError):
    try:
        work()
    except (StorageError, TintemError) as error:
        assert "\\n" not in str(error), error
        return str(error)

def whole(root):
    things = collect(str(root))
    return {(kind, t["id"]) for kind, found in things.items() for t in found if t["progress"] == 1}

path = sys.argv[1]
config = load_config(path)
root = Path(config.root)
"""

_FULL = """
STAGES = ["indexed", "extracted", "mapped", "trained", "evaluated", "exported"]
mount(root, "-o", "size=64m")
said = []
for stage in STAGES:
    for left in (0, 8_192, 65_536, 400_000, 1_700_000):
        before = whole(root)
        room = os.statvfs(root)
        (root / "ballast").write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - left)))
        error = failing(lambda: getattr(Pipeline(config), stage))
        (root / "ballast").unlink()
        if error is None:
            break
        said.append((stage, error))
        assert "space" in error or "free" in error, error
        # A cache may have grown by whole shards meanwhile; an export lacks no more than its report.
        kinds = {kind for kind, _ in whole(root) ^ before}
        assert kinds <= {"caches", "exports"}, kinds
        assert not list(root.rglob(".*.part")), "left behind"
    getattr(Pipeline(config), stage)
assert {stage for stage, _ in said} == set(STAGES), said
assert all(thing.sound for thing in check_things(open_root(root)))
made = Pipeline(config)
for path in ("mappings/%s/mapping.safetensors" % made.mapped.id,
             "students/%s/student.safetensors" % made.trained.id):
    (Path(sys.argv[2]) / Path(path).name).write_bytes((root / path).read_bytes())
"""

_READ_ONLY = """
mount(root, "-o", "size=64m")
Pipeline(config).extracted
before = whole(root)
subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
error = failing(lambda: Pipeline(config).mapped)
assert error and "Give yourself the rights, or use another folder." in error, error
assert whole(root) == before
subprocess.run(["mount", "-o", "remount,rw", str(root)], check=True)
Pipeline(config).mapped
"""

_SOMEBODY_ELSES = """
Pipeline(config).extracted
before = whole(root)
for folder in (root, *root.rglob("*")):
    folder.chmod(0o555 if folder.is_dir() else 0o444)
    for above in folder.parents:
        if str(above).startswith(sys.argv[2]):
            above.chmod(above.stat().st_mode | 0o055)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
error = failing(lambda: Pipeline(config).mapped)
assert error and "cannot be written (Permission denied)" in error, error
assert whole(root) == before
"""


_SHARED_MEMORY = """
settings = config.model_dump(mode="json", exclude_unset=True)
def workers(count):
    runtime = {**settings["runtime"], "loader_workers": count}
    return load_config(write_config(Path(sys.argv[2]), {**settings, "runtime": runtime}, "w.yaml"))

Pipeline(config).mapped
for size in ("16k", "64k", "1m"):
    mount("/dev/shm", "-o", "size=" + size)
    error = failing(lambda: Pipeline(workers(2)).trained)
    assert error and "/dev/shm is full" in error and "loader_workers" in error, (size, error)
    subprocess.run(["umount", "--lazy", "/dev/shm"], check=True)
def student(count):
    path = root / "students" / Pipeline(workers(count)).trained.id / "student.safetensors"
    found = path.read_bytes()
    shutil.rmtree(path.parent)
    return found

mount("/dev/shm", "-o", "size=64k")
alone = student(0)
subprocess.run(["umount", "--lazy", "/dev/shm"], check=True)
assert alone == student(2)
"""


def run(script: str, config: Path, folder: Path) -> None:
    namespace = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    done = subprocess.run(
        [*namespace, sys.executable, "-c", _COMMON + script, str(config), str(folder)],
        capture_output=True, text=True, timeout=800, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def quick(settings: dict[str, Any]) -> dict[str, Any]:
    settings["training"]["epochs"] = 1
    settings["mapping"]["steps"] = 3
    return settings


def student_of(config: Path) -> bytes:
    made = Pipeline(load_config(config))
    path = Path(made.config.root) / "students" / made.trained.id / "student.safetensors"
    return path.read_bytes()


def test_a_disk_that_fills_up_in_any_stage_leaves_nothing_half_and_space_finishes_it(
    quick: dict[str, Any], tmp_path: Path
) -> None:
    run(_FULL, write_config(tmp_path, quick), tmp_path)
    other = {**quick, "root": str(tmp_path / "plain")}
    whole = student_of(write_config(tmp_path, other, "plain.yaml"))
    assert (tmp_path / "student.safetensors").read_bytes() == whole


def test_a_read_only_root_is_a_sentence(quick: dict[str, Any], tmp_path: Path) -> None:
    run(_READ_ONLY, write_config(tmp_path, quick), tmp_path)


def test_a_root_of_another_user_is_a_sentence(quick: dict[str, Any], tmp_path: Path) -> None:
    config = write_config(tmp_path, quick)
    run(_SOMEBODY_ELSES, config, Path(tempfile.gettempdir()))
    root = Path(quick["root"])
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert student_of(config)


def test_too_little_shared_memory_for_loader_processes_is_a_sentence_and_no_wait(
    quick: dict[str, Any], tmp_path: Path
) -> None:
    quick["training"]["epochs"], quick["student"]["image_size"] = 3, 64
    run(_SHARED_MEMORY, write_config(tmp_path, quick), tmp_path)
