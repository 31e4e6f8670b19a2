"""Tests forked from a process that has imported what others wrote: a start costs little.

Most of a short test run is spent on importing torch. What is ours is imported by each run anew.
"""

import contextlib
import importlib
import importlib.metadata
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGES = ("tintem_pixels", "tintem_core", "storage", "flows", "tests")
# What they import themselves; the first brings what torchvision needs.
_OURS = ("tests.conftest", "tintem_core.training.state", "tintem_core.export.onnx", "storage.cache")
_OTHERS = (
    "onnxruntime",
    "scipy.special",
    "scipy.stats",
    "sklearn.covariance",
    "sklearn.linear_model",
    "sklearn.metrics",
    "xarray",
)
_LOOK_EVERY = 0.02
_OPTIONS = ("-x", "--tb=no", "-rfE", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class TestRun:
    """What became of some tests. code: of pytest, negative for a signal, None if it was ended."""

    __test__ = False

    code: int | None
    output: str
    seconds: float


def run_tests(tests: Sequence[str], tree: Path, limit: float) -> TestRun:
    """Run quick tests of a tree, up to the first that fails, in a process of their own.

    Args:
        tests: files below the tree.
        limit: seconds after which they are ended, with all processes that they have started.
    """
    _preload()
    sys.stdout.flush()
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        pid = os.fork()
        if not pid:
            _become_pytest([*_OPTIONS, *tests], tree, log.fileno())
        code = _code_of(pid, started + limit)
        seconds = time.monotonic() - started
        log.seek(0)
        return TestRun(code, log.read(), seconds)


@cache
def _preload() -> None:
    for name in (*_OURS, *_OTHERS):
        importlib.import_module(name)
    for plugin in importlib.metadata.entry_points(group="pytest11"):
        plugin.load()


def _code_of(pid: int, deadline: float) -> int | None:
    ended, status = 0, 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0 if ended else _LOOK_EVERY)
    # The processes that tests have started, too.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if not ended:
        os.waitpid(pid, 0)
        return None
    return os.waitstatus_to_exitcode(status)


def _become_pytest(arguments: list[str], tree: Path, log: int) -> None:
    """Never returns."""
    code = 3
    try:
        os.setsid()
        for source, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        _import_from(tree)
        import pytest

        code = int(pytest.main(arguments))
    except BaseException:  # noqa: BLE001  # it must not go on as the process that it was forked from
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# What they declared to torch ends with them.
_forgotten: list[object] = []


def _import_from(tree: Path) -> None:
    """Forget our modules, and find them below another folder from now on."""
    checkout = Path.cwd().resolve()
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        _forgotten.append(sys.modules.pop(name))
    elsewhere = [place for place in sys.path if Path(place or ".").resolve() != checkout]
    sys.path[:] = [str(tree), *elsewhere]
    os.environ |= {"PYTHONPATH": str(tree), "PYTEST_ADDOPTS": ""}
    os.chdir(tree)
    importlib.invalidate_caches()
    for name in PACKAGES:
        found = importlib.import_module(name).__file__
        if found is None or tree not in Path(found).parents:
            raise ImportError(f"{name} is imported from {found}, not from {tree}")
