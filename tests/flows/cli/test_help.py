"""Every command says how it is called, and quickly."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from flows.cli.commands import app
from tests.docs.calls import GROUP, parse
from tests.docs.pages import own_commands

COMMANDS = sorted(GROUP.commands)


def _examples(epilog: str | None) -> list[str]:
    assert epilog is not None
    title, *lines = epilog.split("\n\n")
    assert title == ("Example:" if len(lines) == 1 else "Examples:")
    return lines


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_shows_a_call_that_it_takes(name: str) -> None:
    lines = _examples(GROUP.commands[name].epilog)
    calls = [call for line in lines for call in own_commands(line)]
    assert len(calls) == len(lines)
    for call in calls:
        assert call[0] == name
        parse(call)
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    # Whole, so that it can be copied.
    assert all(f" {line} " in shown.output for line in lines)


def test_the_help_of_all_of_them_shows_where_to_begin() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "80"}).output
    for line in _examples(GROUP.epilog):
        assert f" {line} " in shown
        for call in own_commands(line):
            parse(call)


def test_help_imports_neither_torch_nor_prefect() -> None:
    code = (
        "import sys; sys.argv = ['tintem', '--help']\n"
        "import flows.cli\n"
        "try: flows.cli.main()\n"
        "except SystemExit: pass\n"
        "print(*{'torch', 'prefect', 'timm', 'polars'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "Usage: tintem" in done.stdout
    assert done.stderr.strip() == ""
