"""The teachers of a run, loaded once per process."""

from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from tintem_core.errors import InputError, WeightsError
from tintem_core.models.device import choose_device
from tintem_core.models.teacher import Teacher, TeacherConfig, build_teacher


def load_teacher(config: TeacherConfig, device: str) -> Teacher:
    """Load the run's teacher; a changed weight file is loaded anew.

    Raises:
        InputError: if the weight file is missing or does not fit.
    """
    changed = 0
    if config.weights != "pretrained":
        if "://" in config.weights:
            raise InputError(
                f"teacher.weights: {config.weights} is no file of this machine: copy it here, and "
                "give its path."
            )
        path = Path(config.weights)
        if not path.is_file():
            raise InputError(
                f"teacher.weights: there is no file {path}; give a .safetensors or .pth file, "
                "or 'pretrained'."
            )
        changed = path.stat().st_mtime_ns
    return _load(config, choose_device(device), changed)


@lru_cache(maxsize=4)
def _load(config: TeacherConfig, device: str, _changed: int) -> Teacher:
    if config.weights == "pretrained":
        return build_teacher(config, None, device)
    return build_teacher(config, read_tensors(Path(config.weights)), device)


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
