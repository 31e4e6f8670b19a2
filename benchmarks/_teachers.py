"""Teachers of any size without a download: how fast one is does not depend on its weights."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from tintem_core.models.backbone import build_backbone
from tintem_core.models.config import BackboneConfig


def write_random_weights(path: Path, model: str, image_size: int) -> None:
    """Write random weights of a timm model, the same ones every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build_backbone(BackboneConfig(model=model, image_size=image_size)).model
    state = {name: tensor.contiguous() for name, tensor in built.state_dict().items()}
    # DINOv2's layer scales begin near 0, where all photos look alike.
    state |= {n: torch.ones_like(t) for n, t in state.items() if n.endswith(".gamma")}
    save_file(state, path)
