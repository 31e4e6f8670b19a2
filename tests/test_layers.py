"""The contracts of import-linter in pyproject.toml: who may import whom."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_contract_is_kept() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", code, "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_has_a_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layered = {c["containers"][0] for c in contracts["contracts"] if c["type"] == "layers"}
    assert {"storage", "storage.root", "storage.images", "storage.cache", "tintem_core"} <= layered
    assert all(c["exhaustive"] for c in contracts["contracts"] if c["type"] == "layers")
