"""Weight files."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from flows.config.run import RunConfig
from tintem_core.errors import InputError, WeightsError


def initial_weights(config: RunConfig) -> Path:
    """Return the file that the student starts from.

    Raises:
        InputError: if there is no such file.
    """
    path = Path(config.student.weights or "")
    if not path.is_file():
        raise InputError(
            f"student.weights: there is no file {path}; give a .safetensors or .pth file, or null."
        )
    return path


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a weight file; ``.safetensors``, or a state_dict that torch saved.

    Raises:
        WeightsError: if it is neither.
    """
    try:
        if path.suffix == ".safetensors":
            return load_safetensors(path.read_bytes())
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a readable weight file: {error}") from error
    except Exception as error:
        # torch raises its private unpickling error for files that would need to run code.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise WeightsError(
            f"{path} is not a plain weight file (it would have to run code to load): "
            "save the model's state_dict as .safetensors."
        ) from error
    for wrapping in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise WeightsError(
            f"{path} holds no plain table of tensors: save the model's state_dict as .safetensors."
        )
    return state
