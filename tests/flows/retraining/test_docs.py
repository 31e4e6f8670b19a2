"""What docs/nightly.md shows is what works."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from flows.config.load import parse_config
from flows.retraining.run import RetrainingRun
from storage.registry import promote
from storage.root import open_root
from tests.flows.config.test_retraining import BASE
from tests.runs import write_config
from tests.storage.test_registry import LINE, model

PAGE = (Path(__file__).parents[3] / "docs" / "nightly.md").read_text()


def block(language: str, holds: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    (found,) = [text for text in blocks if holds in text]
    return str(found)


def test_the_settings_that_are_shown_are_settings_with_their_defaults() -> None:
    shown = yaml.safe_load(block("yaml", "growth:"))["nightly"]
    default, found = (
        parse_config({**BASE, **section}, "docs").nightly for section in ({}, {"nightly": shown})
    )
    assert set(shown) == set(type(default).model_fields)
    assert len(found.students) == 2
    for name in ("growth", "drift", "chance", "keep_mapping", "warm_start", "shown"):
        assert shown[name] == getattr(default, name)


def test_a_night_is_held_in_plain_python(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[RetrainingRun] = []
    monkeypatch.setattr(RetrainingRun, "run", lambda night: held.append(night) or Mock())
    write_config(tmp_path, settings, "tintem.yaml")
    monkeypatch.chdir(tmp_path)
    exec(block("python", "load_config"), {})
    assert len(held) == 1


def test_a_device_fetches_the_latest_without_this_package(tmp_path: Path) -> None:
    root, target = open_root(tmp_path / "root"), tmp_path / "device" / "student.onnx"
    target.parent.mkdir()
    script = tmp_path / "fetch.py"
    script.write_text("import sys; sys.modules['torch'] = None\n" + block("python", "fetch(path)"))

    def fetch() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(script), (tmp_path / "root").as_uri(), LINE]
        return subprocess.run([*command, str(target)], capture_output=True, text=True, timeout=60)

    promote(root, LINE, model(root, "a"), "better", None)
    assert fetch().returncode == 0
    assert target.read_bytes() == root.read("exports/a/student.onnx")
    before = target.stat().st_mtime_ns
    assert fetch().returncode == 0
    assert target.stat().st_mtime_ns == before

    promote(root, LINE, model(root, "b"), "better", 1)
    root.write("exports/b/student.onnx", b"torn")
    refused = fetch()
    assert refused.returncode == 1
    assert "not the one that was promoted" in refused.stderr
    assert target.read_bytes() == root.read("exports/a/student.onnx")
    assert json.loads(root.read(f"latest/{LINE}.json"))["number"] == 2
