"""The command, in this process."""

import sys

import pytest

from flows.cli import main
from tests.flows.maintenance.command import Tintem


@pytest.fixture
def tintem(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tintem:
    """Run ``tintem`` with some arguments: its exit code, output and messages."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tintem", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        return (int(left.value.code or 0), *capsys.readouterr())

    return run
