"""Weight files."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors

from flows.config.run import RunConfig
from flows.data.code import code_digest
from flows.data.onnx_files import onnx_files
from storage.identity import digest, file_digest
from tintem_core.errors import InputError, WeightsError
from tintem_core.models.config import TeacherConfig
from tintem_core.models.teacher import Source

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


def read_source(config: TeacherConfig) -> Source:
    """Read what a teacher's files hold.

    Raises:
        InputError: if a file is missing, or is something else.
    """
    return _READERS[config.kind](config)


def _timm_source(config: TeacherConfig) -> Source:
    path = _weight_file(config)
    return Source() if path is None else Source(tensors=read_tensors(path))


def _onnx_source(config: TeacherConfig) -> Source:
    found = onnx_files(Path(config.onnx or ""))
    return Source(digest=found.digest, parameters=found.parameters)


def _hf_source(_config: TeacherConfig) -> Source:
    return Source()


def _python_source(config: TeacherConfig) -> Source:
    return Source(digest=code_digest(config))


_READERS: dict[str, Callable[[TeacherConfig], Source]] = {
    "model": _timm_source,
    "onnx": _onnx_source,
    "hf": _hf_source,
    "python": _python_source,
}


def _weight_file(config: TeacherConfig) -> Path | None:
    if config.weights == "pretrained":
        return None
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
    return path


def teacher_files(config: TeacherConfig) -> tuple[Path, ...]:
    """Return the files that a teacher is read from; none where a library finds them.

    Raises:
        InputError: if one is missing.
    """
    if config.kind == "onnx":
        return onnx_files(Path(config.onnx or "")).files
    if config.kind == "hf":
        folder = Path(config.hf or "")
        return tuple(sorted(path for path in folder.glob("*") if path.is_file()))
    path = _weight_file(config)
    return () if path is None else (path,)


def files_digest(config: TeacherConfig) -> str | None:
    """Return the digest of a teacher's files; None where a library finds them."""
    files = teacher_files(config)
    if len(files) > 1:
        return digest([[path.name, file_digest(path)] for path in files])
    return file_digest(files[0]) if files else None


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
