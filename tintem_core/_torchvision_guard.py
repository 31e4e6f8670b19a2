"""Let timm import where torchvision's compiled extension cannot load.

A torchvision wheel built for a CUDA torch fails at import next to a CPU-only torch ("operator
torchvision::nms does not exist"), and timm imports torchvision. TinTeM uses no detection
operator, so declaring the two missing schemas is enough. A healthy torchvision is left alone.
"""

import importlib.util
from pathlib import Path

import torch


def _declare_missing_operators() -> "torch.library.Library | None":
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    for extension in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            continue
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


# A Library un-registers its operators when it is collected, so it lives as long as the process.
_LIBRARY = _declare_missing_operators()
