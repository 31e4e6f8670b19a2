"""The contracts of import-linter in pyproject.toml: who may import whom."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
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
    assert {
        "storage",
        "storage.root",
        "storage.images",
        "storage.cache",
        "tintem_core",
        "flows",
    } <= layered
    assert all(c["exhaustive"] for c in contracts["contracts"] if c["type"] == "layers")


def _import_without(packages: list[str], *modules: str) -> None:
    lacking = f"import sys; sys.modules.update(dict.fromkeys({packages!r}))"
    code = f"{lacking}; import {', '.join(modules)}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_machine_that_extracts_and_trains_needs_little() -> None:
    packages = ["prefect", "onnx", "onnxruntime", "matplotlib", "bokeh", "sklearn"]
    _import_without(packages, "flows.stages.pipeline")


def test_a_config_is_checked_and_a_root_is_read_without_torch() -> None:
    """Importing it takes seconds: a mistake in a config, a status, a leaderboard come at once."""
    _import_without(
        ["torch", "timm", "torchvision", "scipy", "prefect"],
        "flows.cli.commands",
        "flows.config.load",
        "flows.config.init",
        "flows.maintenance.gc",
        "flows.maintenance.status",
        "flows.experiments.leaderboard",
    )


def test_a_module_imports_every_submodule_that_it_uses() -> None:
    """Another module may have imported it already: then it is missed only in some commands."""
    packages = {"concurrent", "email", "http", "importlib", "json", "logging", "multiprocessing",
                "unittest", "urllib", "xml"}  # fmt: skip
    used = set()
    for folder in ("flows", "storage", "tintem_core", "tintem_pixels"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            nodes = list(ast.walk(tree))
            imported = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
            used |= {
                (str(path.relative_to(ROOT)), f"{node.value.id}.{node.attr}")
                for node in nodes
                if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in packages
                and not any(f"{i}.".startswith(f"{node.value.id}.{node.attr}.") for i in imported)
            }
    # What a package brings along by itself needs no import.
    assert [(path, name) for path, name in sorted(used) if not _comes_along(name)] == []


@cache
def _comes_along(name: str) -> bool:
    package, _, submodule = name.partition(".")
    code = f"import sys, {package}; sys.exit(not hasattr({package}, {submodule!r}))"
    return subprocess.run([sys.executable, "-S", "-c", code]).returncode == 0
