"""Export formats by name.

A format is a file here and a line below. What a format needs is imported only where it is used:
machines that train have no ONNX Runtime.

Legend: ``B`` batch, ``K`` student width, ``M`` bank, ``N`` images, ``S`` side in pixels.
"""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tintem_core.views import Pixels

if TYPE_CHECKING:
    from tintem_core.models.student import Student

Embed = Callable[[Pixels], NDArray[np.float32]]
"""uint8 images (B, S, S, 3) to (B, K)."""


@dataclass(frozen=True)
class OutlierBank:
    """What a model compares a photo with, to tell whether it is strange.

    embeddings: unit vectors of training photos, shape (M, K). threshold: the smallest cosine to
    the nearest of them that is not strange.
    """

    embeddings: NDArray[np.float32]
    threshold: float


@dataclass(frozen=True)
class Subject:
    """What is exported; the formats of one export share it, and what they compute of it."""

    student: "Student"
    image_size: int
    """S."""
    description: Mapping[str, str] = field(default_factory=dict)
    """Written into a file, where it has a place for it."""
    calibration: Callable[[], Pixels] | None = None
    """Gives training views, uint8 (N, S, S, 3); None: there are none, as before a training."""
    outliers: OutlierBank | None = None
    """What the format `ood` compares with; None: it is not asked for, or not known yet."""
    has_tokens: bool = False
    """Whether it was trained with patch tokens, which formats with a place for them give too."""

    @cached_property
    def graph(self) -> Any:
        """The student as an ONNX ``ModelProto``, see :func:`tintem_core.export.onnx.to_graph`."""
        from tintem_core.export.onnx import to_graph

        return to_graph(self.student, self.image_size, self.description)


class ExportFormat(ABC):
    """A student as a file, and what must lie beside it for others to load it."""

    file: str
    """The name of the file; a folder may come before it."""
    is_exact = True
    """Whether it gives the student's own embeddings, or others, of less precision."""
    batch_sizes: tuple[int, ...] = (1, 2, 7, 32)
    """The batches that it is checked with."""

    @abstractmethod
    def files(self, subject: Subject) -> dict[str, bytes]:
        """Convert a trained student; of files that several formats write, the last one counts.

        Raises:
            NotApplicableError: if this student has no place in the format.
        """

    @abstractmethod
    def open(self, files: Mapping[str, bytes]) -> Embed:
        """Open what :meth:`files` made, in the runtime that the format is for."""


FORMATS = {
    "onnx": "tintem_core.export.onnx:ONNX",
    "uint8": "tintem_core.export.onnx:UINT8",
    "web": "tintem_core.export.web:WEB",
    "ood": "tintem_core.export.outliers:OUTLIERS",
    "fp16": "tintem_core.export.reduced:FP16",
    "int8": "tintem_core.export.reduced:INT8",
    "triton": "tintem_core.export.triton:TRITON",
    # After the others, whose `config.json` says less.
    "timm": "tintem_core.export.timm_folder:TIMM",
}
"""Where each format is, as module:object."""

DEFAULT = ("onnx", "uint8", "web", "fp16", "int8", "timm")


def export_format(name: str) -> ExportFormat:
    """Return a format of FORMATS."""
    found: ExportFormat = pkgutil.resolve_name(FORMATS[name])
    return found
