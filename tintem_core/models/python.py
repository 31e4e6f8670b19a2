"""A model that a function of the user's own builds.

The contract: ``function(**options)`` returns an ``nn.Module`` whose ``forward`` takes RGB pixels,
float, 0..1, shape (B, 3, S, S), and returns embeddings (B, D), or a pair of embeddings and patch
tokens (B, T, C), row by row and without prefix tokens.

Legend: ``B`` batch, ``T`` tokens, ``C`` token width, ``D`` width, ``S`` side in pixels.
"""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import PathFinder
from typing import Any

import torch
from torch import Tensor, nn

from tintem_core.errors import InputError
from tintem_core.models.base import VisionModel
from tintem_core.models.config import BackboneConfig

NO_MEAN, NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


class PythonModel(VisionModel):
    """A module of the user's own.

    Args:
        model: see the contract of this file.
        name: module:function.
        mean, std: see :class:`VisionModel`; 0 and 1 where the module normalises by itself.
        image_size: S.

    Raises:
        InputError: if the module cannot be run at this size, or returns something else.
    """

    def __init__(
        self,
        model: nn.Module,
        name: str,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
    ) -> None:
        super().__init__(name, mean, std)
        self.model = model
        grey = torch.full((2, 3, image_size, image_size), 0.5)
        try:
            with torch.no_grad():
                embedding, tokens = self._both(self.eval()._normalise(grey))
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{name}: the module that it returns cannot be run on pixels of shape "
                f"{tuple(grey.shape)}: {_reason(error)}"
            ) from error
        self.train()
        if embedding.ndim != 2 or len(embedding) != 2:
            raise InputError(
                f"{name}: of 2 images its module gives embeddings of shape "
                f"{tuple(embedding.shape)}, not (2, width)."
            )
        if tokens is not None and (tokens.ndim != 3 or len(tokens) != 2):
            raise InputError(
                f"{name}: of 2 images its module gives patch tokens of shape "
                f"{tuple(tokens.shape)}, not (2, number of tokens, width)."
            )
        self._width = embedding.shape[1]
        self._token_width = self._width if tokens is None else tokens.shape[2]

    @property
    def width(self) -> int:
        return self._width

    @property
    def token_width(self) -> int:
        return self._token_width

    def forward(self, pixels: Tensor) -> Tensor:
        return self._both(self._normalise(pixels))[0]

    def forward_with_tokens(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        embedding, tokens = self._both(self._normalise(pixels))
        if tokens is None:
            raise self._has_no_tokens()
        return embedding, tokens

    def _both(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        found = self.model(pixels)
        if isinstance(found, Tensor):
            return found, None
        if (
            isinstance(found, tuple | list)
            and len(found) == 2
            and all(isinstance(part, Tensor) for part in found)
        ):
            return found[0], found[1]
        raise InputError(
            f"{self.name}: its module returns {type(found).__name__}: let forward return a tensor "
            "of embeddings (B, D), or a pair of them and patch tokens (B, T, C)."
        )


def build_python(
    config: BackboneConfig,
    mean: Sequence[float] = NO_MEAN,
    std: Sequence[float] = NO_STD,
    options: Mapping[str, Any] | None = None,
) -> PythonModel:
    """Call the function that ``config.python`` names; ``options`` are its arguments.

    Raises:
        InputError: naming module and function, if it cannot be imported or called, or returns no
            module as the contract has it.
    """
    name, folder = config.name, (config.python or "").rpartition("/")[0]
    function = _function(name, folder)
    try:
        model = function(**(options or {}))
    except Exception as error:
        raise InputError(f"{name}: the function failed with {_reason(error)}") from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{name}: the function returns {type(model).__name__}: let it return an nn.Module."
        )
    return PythonModel(model, name, mean, std, config.image_size)


def _function(name: str, folder: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    if folder:
        _prefer(folder, module_name.partition(".")[0])
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        beside = f" ({folder} was looked into first)" if folder else ""
        raise InputError(
            f"{name}: the module {module_name} cannot be imported: {_reason(error)}{beside}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module_name
        ]
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise InputError(f"{name}: {module_name} has no function {function_name}: {has}.")
    return function


def _prefer(folder: str, top: str) -> None:
    """Let a folder's modules be found first, even where another folder's of that name was used."""
    # A file may be younger than what Python remembers of its folder.
    importlib.invalidate_caches()
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    found, loaded = PathFinder.find_spec(top, [folder]), sys.modules.get(top)
    if found is None or found.origin is None or loaded is None or top in sys.stdlib_module_names:
        return
    if getattr(loaded, "__file__", None) != found.origin:
        for name in [n for n in sys.modules if n == top or n.startswith(f"{top}.")]:
            del sys.modules[name]


def _reason(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else f"{type(error).__name__}."
