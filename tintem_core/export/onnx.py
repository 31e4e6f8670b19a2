"""A trained student as one ONNX file.

Legend: ``B`` batch, ``K`` student width, ``S`` side in pixels.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from functools import partial

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from tintem_core.export.formats import Embed
from tintem_core.models.student import Student
from tintem_core.views import Pixels

INPUT, OUTPUT = "pixels", "embedding"


def to_onnx(student: Student, image_size: int, description: dict[str, str]) -> bytes:
    """Export to ONNX, weights inside, pixel normalisation inside, dynamic batch axis.

    Args:
        student: the trained student, on any device.
        image_size: S.
        description: written into the model's metadata.

    Returns:
        A model from ``pixels`` (float32, RGB, 0..1, shape (B, 3, S, S)) to ``embedding``
        (float32, shape (B, K)).
    """
    student = student.cpu().eval()
    example = torch.zeros(2, 3, image_size, image_size)
    # The exporter reports its own progress and its own deprecations: nothing a user can act on.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    quiet = contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), quiet, _plain_attention(student):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            student,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1)}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for key, value in description.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model.SerializeToString()


@contextlib.contextmanager
def _plain_attention(model: torch.nn.Module) -> Iterator[None]:
    """Have timm's attention written out inside the block: not every fused form can be exported."""
    fused = [m for m in model.modules() if getattr(m, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]


def session(model: bytes, threads: int | None = None) -> onnxruntime.InferenceSession:
    """Open an exported model in ONNX Runtime on the CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx(opened: onnxruntime.InferenceSession, pixels: Pixels) -> NDArray[np.float32]:
    """Embed uint8 images (B, S, S, 3) with an opened model; returns (B, K)."""
    batch = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255)
    output: NDArray[np.float32] = opened.run([OUTPUT], {INPUT: batch})[0]
    return output


class Onnx:
    """See :class:`tintem_core.export.formats.ExportFormat`."""

    file = "student.onnx"

    def to_bytes(self, student: Student, image_size: int, description: dict[str, str]) -> bytes:
        return to_onnx(student, image_size, description)

    def open(self, model: bytes) -> Embed:
        return partial(run_onnx, session(model))


ONNX = Onnx()
