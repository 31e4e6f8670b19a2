"""Export formats by name.

A format is a file here and a line below. What a format needs is imported only where it is used:
machines that train have no ONNX Runtime.
"""

import pkgutil
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tintem_core.models.student import Student
from tintem_core.views import Pixels

Embed = Callable[[Pixels], NDArray[np.float32]]
"""uint8 images (B, S, S, 3) to (B, K)."""


class ExportFormat(Protocol):
    """A student as one file."""

    file: str
    """Its name."""

    def to_bytes(self, student: Student, image_size: int, description: dict[str, str]) -> bytes:
        """Convert a trained student of images with a side of ``image_size`` pixels.

        Args:
            student: on any device.
            image_size: S.
            description: written into the file, where it has a place for it.
        """

    def open(self, model: bytes) -> Embed:
        """Open what :meth:`to_bytes` made, in the runtime that the format is for."""


FORMATS = {"onnx": "tintem_core.export.onnx:ONNX"}
"""Where each format is, as module:object."""


def export_format(name: str) -> ExportFormat:
    """Return a format of FORMATS."""
    found: ExportFormat = pkgutil.resolve_name(FORMATS[name])
    return found
