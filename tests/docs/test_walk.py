"""The commands that the pages show are typed one after the other, beside a small run."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.config.load import load_config
from tests.docs.ledger import WALK, run_by
from tests.docs.pages import Block, own_commands
from tests.flows.cli.test_bad_input import tintem
from tests.runs import small_run, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# So that every setting that a command names is one of the run.
_SWEEP = {"list": [{"name": "mobilenet, in name", "training.epochs": 2}]}
# Any student may follow any other here.
_OPEN = [{"metric": "student/test/pairwise_pearson", "minimum": -1}]
# Conditions of a leaderboard may be met by no student of a run that has learned for seconds.
_NOBODY = r"no student of .* has "


@pytest.fixture
def settings(
    tmp_path: Path, photo_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Of a run in the folder of the pages, whose photos they call by two names."""
    monkeypatch.chdir(tmp_path)
    found = small_run(tmp_path, photo_folder(60, classes=("disc", "plain"), name="path/to/photos"))
    (tmp_path / "photos").symlink_to(tmp_path / "path/to/photos")
    other = photo_folder(8, name="other", first=100)
    return found | {
        "root": "tintem-data",
        "sweep": _SWEEP,
        "nightly": {"gates": _OPEN},
        "evaluation": {"resamples": 100, "ood": [{"name": "poly-cells", "uri": str(other)}]},
    }


def _walk(block: Block, home: Path, export: str, student: str) -> None:
    text = block.text.replace("exports/ID", f"exports/{export}")
    for call in own_commands(re.sub(r"\bID\b", student, text)):
        done = tintem(*call, home=home)
        is_nobody = call[0] == "leaderboard" and re.search(_NOBODY, done.stderr)
        assert done.returncode == 0 or is_nobody, f"tintem {' '.join(call)}: {done.stderr}"
        assert "Traceback" not in done.stderr


def _ids(kind: str, home: Path) -> list[str]:
    status = json.loads(tintem("status", "tintem.yaml", "--json", home=home).stdout)
    return [thing["id"] for thing in status[kind]]


def test_the_commands_of_the_pages_run_one_after_the_other(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `--open` opens a browser, which nobody would close.
    monkeypatch.setenv("BROWSER", "true")
    first, *later = run_by(WALK)
    init, *others = list(own_commands(first.text))
    assert tintem(*init, home=tmp_path).returncode == 0
    # It names a teacher that is not on every machine.
    assert load_config("tintem.yaml").data.uri == str(tmp_path / "path/to/photos")
    for name in ("tintem.yaml", "CONFIG.yaml", "other.yaml"):
        write_config(tmp_path, settings, name)
    for call in others:
        done = tintem(*call, home=tmp_path)
        assert done.returncode == 0, f"tintem {' '.join(call)}: {done.stderr}"
    (export,), (own,) = (_ids(kind, tmp_path) for kind in ("exports", "students"))

    # A sweep comes first: the student that is chosen by its id is one of its students.
    later.sort(key=lambda block: not block.begins.startswith("tintem sweep"))
    student = ""
    for block in later:
        if block.language == "python":
            done = subprocess.run(
                [sys.executable, "-c", block.text], capture_output=True, text=True, timeout=280
            )
            assert done.returncode == 0, done.stderr
            assert Path(done.stdout.strip(), "student.onnx").is_file()
            continue
        _walk(block, tmp_path, export, student)
        if not student:
            (student,) = set(_ids("students", tmp_path)) - {own}
    assert Path("embeddings.parquet").is_file()
    assert yaml.safe_load(Path("tintem.yaml").read_text()) == settings
