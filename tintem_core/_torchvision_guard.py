"""Let timm import where torchvision's compiled extension cannot load.

A torchvision wheel built for a CUDA torch fails at import next to a CPU-only torch ("operator
torchvision::nms does not exist"), and timm imports torchvision. TinTeM uses no detection
operator, so declaring the two missing schemas is enough. A healthy torchvision is left alone, and
torch is imported only where torchvision is.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

# A Library un-registers its operators when it is collected, so it lives as long as the process.
_kept: list[Any] = []


class _BeforeTorchvision(MetaPathFinder):
    """Acts once, when torchvision is looked for, and leaves the finding to the others."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        del path, target
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing_operators()
        return None


def _declare_missing_operators() -> None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    import torch

    for extension in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            continue
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


sys.meta_path.insert(0, _BeforeTorchvision())
