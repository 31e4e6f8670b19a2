"""Weight files."""

from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors

from flows.config.run import RunConfig
from tintem_core.errors import InputError, WeightsError

# Where training code puts a model's state_dict; of DINO's two, the teacher's.
_WRAPPINGS = (
    "state_dict", "state_dict_ema", "model_ema", "ema", "model", "model_state_dict", "teacher",
    "student",
)  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "module.")


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
            return _unprefixed(load_safetensors(path.read_bytes()))
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        # Readers of broken files raise nearly anything; torch's error for files that would need to
        # run code is private.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if type(error).__name__ == "UnpicklingError":
            reason = "it is no plain weight file, and would have to run code to load"
        raise WeightsError(
            f"{path} is not a readable weight file ({reason}): save the model's state_dict as "
            ".safetensors."
        ) from error
    for wrapping in _WRAPPINGS:
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
            break
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise WeightsError(
            f"{path} holds no plain table of tensors: save the model's state_dict as .safetensors."
        )
    return _unprefixed(state)


def _unprefixed(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop what wrappers put before the names: DDP, torch.compile, DINO's backbone and head."""
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
    backbone = {n.removeprefix("backbone."): t for n, t in tensors.items()
                if n.startswith("backbone.")}  # fmt: skip
    # A student of TinTeM's own keeps its names: its projection counts too.
    is_ours = any(name.startswith("model.") for name in backbone)
    return tensors if is_ours or not backbone else backbone
