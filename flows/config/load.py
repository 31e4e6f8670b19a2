"""From YAML to a run's config, with errors in the words of the file."""

from pathlib import Path
from typing import Any

from flows.config.checks import check
from flows.config.run import RunConfig
from flows.config.settings import read_settings
from flows.config.validation import validated
from storage.errors import StorageInputError
from tintem_core.errors import InputError


def load_config(path: str | Path) -> RunConfig:
    """Read a run's YAML file; relative paths in it are relative to the file.

    Raises:
        InputError: if the file is missing, is no YAML, or does not describe a run.
    """
    path = Path(path)
    try:
        settings = read_settings(path)
    except StorageInputError as error:
        raise InputError(str(error)) from error
    return parse_config(settings, str(path))


def parse_config(content: dict[str, Any], where: str) -> RunConfig:
    """Validate settings, and what its sections must agree on.

    Raises:
        InputError: one line per problem, with the key and the cure.
    """
    config = validated(content, where)
    try:
        check(config)
    except InputError as error:
        reason = str(error).removeprefix("found 1 error in ")
        raise InputError(f"found 1 error in {where}: {reason}") from error
    return config
