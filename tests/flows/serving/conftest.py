"""A service in a process of its own, asked by real HTTP."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

Start = Callable[..., "Running"]
_SECONDS = 60
TINTEM = Path(sys.executable).with_name("tintem")


@dataclass
class Running:
    """A service that answers."""

    process: subprocess.Popen[str]
    url: str

    @classmethod
    def started(cls, folder: Path, *arguments: str, tintem: Path = TINTEM) -> "Running":
        """Start `tintem serve` in a folder, and wait until it answers."""
        process = subprocess.Popen(
            [tintem, "serve", *arguments, "--port", "0"],
            cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"(http://\S+)/docs", line):
                return cls(process, found[1])
        raise AssertionError("".join(said))

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=_SECONDS, trust_env=False)

    def ended(self, number: int = signal.SIGTERM) -> str:
        """End it as a service manager does; return what it says meanwhile."""
        self.process.send_signal(number)
        told, _ = self.process.communicate(timeout=_SECONDS)
        return told


def _starting(folder: Path) -> Iterator[Start]:
    running: list[Running] = []

    def started(*arguments: str) -> Running:
        running.append(Running.started(folder, *arguments))
        return running[-1]

    yield started
    for each in running:
        each.process.kill()
        each.process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start services; what runs at the end is killed."""
    yield from _starting(tmp_path)


@pytest.fixture(scope="module")
def module_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """The same, for a service that a module's tests share."""
    yield from _starting(tmp_path_factory.mktemp("started"))
