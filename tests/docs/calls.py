"""Parse calls of `tintem` as the command line does, and run nothing."""

from typing import Any

import typer

from flows.cli.commands import app

GROUP: Any = typer.main.get_command(app)
# Typer brings its own click, and names of its errors that it does not export.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
# Words of usage that stand for a number.
_NUMBERS = {"NUMBER": "1", "N": "1"}


def is_incomplete(error: Exception) -> bool:
    """Whether nothing is wrong with a call but that something is missing."""
    return type(error).__name__ == "MissingParameter"


def parse(arguments: list[str]) -> None:
    """Parse a call.

    Raises:
        UsageError: if a command, an option, or the form of a value is not known, or one is missing.
    """
    name, *rest = [_NUMBERS.get(word, word) for word in arguments]
    if name.startswith("-"):
        assert name in {option for each in GROUP.params for option in each.opts} | {"--help"}
        return
    context = GROUP.make_context("tintem", [name])
    command = GROUP.commands.get(name)
    if command is None:
        raise UsageError(f"there is no command {name}")
    if "--help" not in rest:
        command.make_context(name, rest, parent=context)
