"""Weights that timm fetches from the Hugging Face hub."""

import urllib.error
import urllib.request

import timm
from huggingface_hub import constants, try_to_load_from_cache

from tintem_core.errors import InputError

_FILES = ("model.safetensors", "pytorch_model.bin")
_PATIENCE_SECONDS = 10.0


def require_reachable(name: str) -> None:
    """Make sure that weights are in the hub's cache, or that there is a way to the hub.

    The hub's own client tries again for a minute, and says so a dozen times.

    Args:
        name: of a timm model, with its tag if it has one.

    Raises:
        InputError: if neither is so.
    """
    try:
        repository = timm.get_pretrained_cfg(name).hf_hub_id
    except (AttributeError, RuntimeError, ValueError):
        return
    if not repository or any(
        isinstance(try_to_load_from_cache(repository, file), str) for file in _FILES
    ):
        return
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            urllib.request.urlopen(constants.ENDPOINT, timeout=_PATIENCE_SECONDS).close()
        except urllib.error.HTTPError:
            return
        except OSError as error:
            reason = str(getattr(error, "reason", error))
        else:
            return
    raise InputError(
        f"the pretrained weights of {name} are not on this machine, and {constants.ENDPOINT} "
        f"cannot be reached ({reason}): check the network, or give `weights: "
        "path/to/file.safetensors`."
    )
