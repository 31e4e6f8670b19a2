"""The contracts of import-linter in pyproject.toml: who may import whom."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_every_contract_is_kept() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_a_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layered = {c["containers"][0] for c in contracts["contracts"] if c["type"] == "layers"}
    assert {
        "storage",
        "storage.root",
        "storage.images",
        "storage.cache",
        "tintem_core",
        "flows",
    } <= layered
    assert all(c["exhaustive"] for c in contracts["contracts"] if c["type"] == "layers")


@pytest.mark.parametrize(
    "package", ["prefect", "onnx", "onnxruntime", "matplotlib", "bokeh", "sklearn"]
)
def test_a_machine_that_extracts_and_trains_needs_little(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import flows.stages.pipeline"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
