"""From YAML to a run's config, with errors in the words of the file."""

from pathlib import Path
from typing import Any

import yaml

from flows.config.anchoring import resolve_paths
from flows.config.checks import check
from flows.config.run import RunConfig
from flows.config.validation import validated
from tintem_core.errors import InputError


def load_config(path: str | Path) -> RunConfig:
    """Read a run's YAML file; relative paths in it are relative to the file.

    Raises:
        InputError: if the file is missing, is no YAML, or does not describe a run.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"there is no config file {path}: `tintem init FOLDER` writes one."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise InputError(f"{path} cannot be read as YAML: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings: `tintem init FOLDER` writes an example.")
    return parse_config(resolve_paths(content, path.resolve().parent), str(path))


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
