"""Smaller ONNX files: half precision, and 8-bit integers.

Legend: ``B`` batch, ``N`` images, ``S`` side in pixels.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from tintem_core.errors import NotApplicableError
from tintem_core.export.formats import Subject
from tintem_core.export.runtime import NORMALISED
from tintem_core.export.web import WebFormat
from tintem_core.views import Pixels

_BATCH = 16
_LAYERS = ("Conv", "MatMul", "Gemm")


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Hands out batches of normalised pixels."""

    def __init__(self, subject: Subject, pixels: Pixels) -> None:
        backbone = subject.student.backbone
        mean, std = (v.numpy(force=True) for v in (backbone.mean, backbone.std))
        planes = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        self._batches: Iterator[NDArray[np.float32]] = iter(
            np.array_split((planes - mean) / std, -(-len(planes) // _BATCH))
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {NORMALISED: batch}


class HalfPrecision(WebFormat):
    """Weights and arithmetic in float16; input and output stay float32."""

    file = "onnx/model_fp16.onnx"
    is_exact = False

    def model(self, subject: Subject) -> bytes:
        copy = onnx.ModelProto()
        copy.CopyFrom(subject.graph)
        with _quiet():
            half: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True)
        return half.SerializeToString()


class Integers(WebFormat):
    """Weights and activations in 8 bits, static, per channel; input and output stay float32.

    The first and the last layer, grouped convolutions, and what lies between layers stay float:
    they hold few of the weights. On the quickstart's student that brought the mean cosine from
    0.995 to 0.998, for 0.3 of 3 MB. Weights use 7 of the 8 bits: processors without VNNI saturate
    sums of full ones, and the same file must give the same embeddings on all of them.
    """

    file = "onnx/model_quantized.onnx"
    is_exact = False

    def model(self, subject: Subject) -> bytes:
        if subject.calibration is None:
            raise NotApplicableError("8-bit integers are calibrated on training views")
        with tempfile.TemporaryDirectory() as folder, _quiet():
            prepared, result = f"{folder}/prepared.onnx", f"{folder}/result.onnx"
            quant_pre_process(subject.graph, prepared)
            quantize_static(
                prepared,
                result,
                _Calibration(subject, subject.calibration()),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(_LAYERS),
                nodes_to_exclude=_sensitive(onnx.load(prepared).graph),
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            model = onnx.load(result)
        return model.SerializeToString()


def _sensitive(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the layers that stay float."""
    layers = [node for node in graph.node if node.op_type in _LAYERS]
    depthwise = [
        node.name
        for node in layers
        if any(each.name == "group" and each.i > 1 for each in node.attribute)
    ]
    return [*dict.fromkeys([layers[0].name, *depthwise, layers[-1].name])] if layers else []


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tools' advice to their own users from the log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


FP16 = HalfPrecision()
INT8 = Integers()
