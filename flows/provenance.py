"""Where a result comes from: versions, hardware, time."""

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def provenance() -> dict[str, Any]:
    """Describe this process, for the records that lie beside the results.

    The version of a package that is not installed is None: a machine that only extracts or trains
    needs no ONNX Runtime, and may run TinTeM from a checkout.
    """
    # Only here: those who read what others made need no torch.
    import torch

    packages = ("tintem", "torch", "timm", "numpy", "zarr", "polars", "onnxruntime")
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
