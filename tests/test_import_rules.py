"""Who may know whom (see CONTRIBUTING.md): read from the source, not from what ran.

The layers of storage are contracts in pyproject.toml, which `make check` reads; see test_layers.py.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FORBIDDEN = {
    "tintem_core": {"prefect", "zarr", "obstore", "polars", "storage", "flows", "pathlib"},
    # A device that embeds photos has NumPy and Pillow only.
    "tintem_pixels": {"torch", "timm", "pydantic", "polars", "zarr", "prefect"},
    # The stages run on a machine without Prefect, and leave chunk layouts to storage.
    "flows/stages": {"prefect", "zarr", "obstore"},
    "flows/nights": {"prefect"},
    "flows/sweeps": {"prefect"},
    "flows/leaderboards": {"prefect"},
    "flows/planning": {"prefect"},
    "flows": {"zarr", "obstore"},
}
ALLOWED = {
    # The guard finds torchvision's files; that is its job.
    ("tintem_core/_torchvision_guard.py", "pathlib"),
    # What Prefect's page shows of a night.
    ("flows/nights/artifacts.py", "prefect"),
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_only_what_it_may_know(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert files
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imported(path)
        if name in FORBIDDEN[package] and (str(path.relative_to(ROOT)), name) not in ALLOWED
    ]
    assert not broken


@pytest.mark.parametrize("package", ["prefect", "onnx", "onnxruntime", "matplotlib", "sklearn"])
def test_a_machine_that_extracts_and_trains_needs_little(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import flows.stages.pipeline"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
