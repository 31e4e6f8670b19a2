"""The settings of a YAML file before they are validated.

Needs no torch, whose import alone takes seconds, so that what is missing is told at once.
"""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from flows.config.anchoring import resolve_paths
from storage.errors import StorageInputError

_OF_PATTERNS = "*?[{"
# Far above any config that was written by hand or by a program.
_MOST_BYTES = 16 * 2**20
_MOST_VALUES = 1_000_000


def read_settings(path: Path) -> dict[str, Any]:
    """Read a run's YAML file; relative paths in it are relative to the file.

    Raises:
        StorageInputError: if the file is missing, is no YAML, or holds no settings.
    """
    try:
        _refuse_no_file(path)
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if _values(content, {}) > _MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {_MOST_VALUES:,} values")
    except FileNotFoundError as error:
        raise StorageInputError(
            f"there is no config file {path}: `tintem init FOLDER` writes one."
        ) from error
    except RecursionError as error:
        raise StorageInputError(f"{path} cannot be read as YAML: it is nested too deep") from error
    # Also of numbers with thousands of digits.
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise StorageInputError(f"{path} cannot be read as YAML: {reason}") from error
    if not isinstance(content, dict):
        raise StorageInputError(
            f"{path} holds no settings: `tintem init FOLDER` writes an example."
        )
    return resolve_paths(content, path.resolve().parent)


def _refuse_no_file(path: Path) -> None:
    """Raises ValueError for what is no file of settings: a pipe or a device might never end."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no file")
    if found.st_size > _MOST_BYTES:
        raise ValueError(f"it has {found.st_size:,} bytes")


def _values(content: Any, known: dict[int, int]) -> int:
    """Count the values of a document as if every alias were written out.

    Raises:
        RecursionError: if one contains itself.
    """
    if not isinstance(content, dict | list):
        return 1
    if id(content) not in known:
        items = content.values() if isinstance(content, dict) else content
        # Of one that contains itself, this is never written.
        known[id(content)] = 1 + sum(_values(item, known) for item in items)
    return known[id(content)]


def refuse_missing(path: Path) -> None:
    """Look whether photos and weight files that a config names are there.

    What is no setting, or of no such form, is left to validation.

    Raises:
        StorageInputError: if something is not there.
    """
    settings = read_settings(path)
    for place, uri in _sources(settings):
        if not any(c in uri for c in _OF_PATTERNS) and not Path(uri).exists():
            raise StorageInputError(
                f"{place}: there is no {uri}: correct it (relative paths start at the folder "
                f"of {path.name})."
            )
    for name, instead in (("teacher", "'pretrained'"), ("student", "null")):
        weights = _text(settings.get(name), "weights")
        if weights not in (None, "pretrained") and not Path(weights).is_file():
            raise StorageInputError(
                f"{name}.weights: there is no file {weights}; give a .safetensors or .pth file, "
                f"or {instead}."
            )


def _sources(settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the places of local photos: where in the config, and where on this machine."""
    if (uri := _text(settings.get("data"), "uri")) is not None:
        yield "data.uri", uri
    for name, key in (("evaluation", "ood"), ("support", "photos")):
        section = settings.get(name)
        listed = section.get(key) if isinstance(section, dict) else None
        for number, source in enumerate(listed if isinstance(listed, list) else []):
            if (uri := _text(source, "uri")) is not None:
                yield f"{name}.{key}[{number}].uri", uri


def _text(section: Any, key: str) -> str | None:
    """Return a setting that names something of this machine."""
    value = section.get(key) if isinstance(section, dict) else None
    return value if isinstance(value, str) and "://" not in value else None
