"""Where a result comes from: versions, hardware, time."""

import datetime
import os
import platform
from importlib.metadata import version
from typing import Any

import torch


def provenance() -> dict[str, Any]:
    """Describe this process, for the records that lie beside the results."""
    packages = ("tintem", "torch", "timm", "numpy", "zarr", "polars", "onnxruntime")
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
