"""The code of models that are functions of the user's own: which of it counts, and its digest."""

import hashlib
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from tintem_core.errors import InputError
from tintem_core.models.config import BackboneConfig

_OURS = ("flows", "storage", "tintem_core", "tintem_pixels")
# What was imported by this process stays in it: a file that has changed since is another one.
_imported: dict[str, str] = {}


def code_digest(config: BackboneConfig) -> str:
    """Return the digest of what a Python model's function is written in.

    Counted are the bytes of its module and of all modules that it imports from the same folder; of
    an installed package, those of the package.

    Raises:
        InputError: if there is no such module, or it has changed since this process imported it.
    """
    given = config.python or ""
    folder, name = given.rpartition("/")[0], config.name.partition(":")[0]
    finder = _finder(folder, name)
    try:
        finder.import_hook(name)
    except (ImportError, SyntaxError) as error:
        where = f" ({folder} was looked into first)" if folder else ""
        raise InputError(
            f"{config.name}: the module {name} cannot be imported: {error}{where}"
        ) from error
    found = hashlib.sha256()
    modules: list[Any] = list(finder.modules.values())
    for module, file in sorted((m.__name__, m.__file__) for m in modules):
        found.update(f"{module} ".encode() + hashlib.sha256(_bytes(file)).digest())
    code = found.hexdigest()
    if _imported.setdefault(given, code) != code:
        raise InputError(
            f"{config.name}: its code has changed since this process imported it: start TinTeM "
            "anew."
        )
    return code


def python_identity(config: BackboneConfig) -> dict[str, str]:
    """Return the digest of a Python model's code as part of a spec; nothing for another kind."""
    return {"code": code_digest(config)} if config.kind == "python" else {}


class _LocalFinder(ModuleFinder):
    """Follows imports inside of one folder."""

    def __init__(self, folder: str, only: str | None) -> None:
        super().__init__([folder])
        self._only = only

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        if parent is None and (
            name in _OURS or name in sys.stdlib_module_names or self._only not in (None, name)
        ):
            raise ImportError(name)
        try:
            return super().find_module(name, path, parent)
        except (AttributeError, TypeError) as error:
            # A folder without Python in it that is called like what is imported.
            raise ImportError(f"there is no module {name}") from error


def _finder(folder: str, name: str) -> ModuleFinder:
    top = name.partition(".")[0]
    if folder and PathFinder.find_spec(top, [folder]) is not None:
        return _LocalFinder(folder, None)
    try:
        installed = find_spec(top)
    except ValueError:
        installed = None
    if installed is None or not installed.origin:
        return _LocalFinder(folder or ".", None)
    file = Path(installed.origin)
    return _LocalFinder(str(file.parents[1] if file.stem == "__init__" else file.parent), top)


def _bytes(file: str | None) -> bytes:
    return Path(file).read_bytes() if file else b""
