"""What is installed without a checkout has everything that a checkout has, and runs."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("flows", "storage", "tintem_core", "tintem_pixels")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
            "--wheel-dir", tmp_path / "dist", source,
        ],
        check=True,
    )  # fmt: skip
    (found,) = (tmp_path / "dist").glob("*.whl")
    return found


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    for package in PACKAGES:
        wanted = {
            str(path.relative_to(ROOT))
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert not wanted - held


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_the_wheel_alone_ends_the_quickstart_with_a_faithful_student(
    wheel: Path, tmp_path: Path
) -> None:
    """In an environment of its own, in a folder that is no checkout."""
    programs, folder = tmp_path / "venv" / "bin", tmp_path / "elsewhere"
    folder.mkdir()
    venv.create(programs.parent, with_pip=True)
    constraints = ROOT / "constraints.txt"
    install = [programs / "pip", "--quiet", "install", "-c", constraints, f"{wheel}[demo]"]
    subprocess.run(install, cwd=folder, check=True, timeout=900)
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "home")}
    environment.pop("PYTHONPATH", None)

    def run(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [programs / program, *arguments], cwd=folder, env=environment, capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr + done.stdout
        return done.stdout

    assert str(programs.parent) in run("python", "-c", "import flows; print(flows.__file__)")
    printed = run("tintem", "quickstart")
    assert "same 10 nearest neighbours" in printed
    again = run("tintem", "quickstart")
    assert "Train" not in again
    status = json.loads(run("tintem", "status", "tintem-quickstart/quickstart.yaml", "--json"))
    (evaluation,) = status["evaluations"]
    found = evaluation["metrics"]
    assert found["student/test/pairwise_pearson"] > 0.9
    assert found["student/test/r2_to_mapped"] > 0.6
    assert found["student/test/same_photo_at_1"] > 0.2
    assert found["student/test/neighbour_overlap_10"] > 0.55
    assert found["student/test/knn"] > found["teacher/test/knn"] - 0.1
    assert found["teacher/textiles/auroc"] > 0.99
    assert found["student/textiles/auroc"] > 0.95
    assert found["student/poly-cells/auroc"] > 0.95
