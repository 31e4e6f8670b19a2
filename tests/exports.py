"""The export of a small network: what a device gets, made in no time."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from storage.artifacts import write_artifact
from storage.root import open_root
from tintem_core.export.formats import OutlierBank
from tintem_core.export.onnx import with_front
from tintem_core.export.outliers import with_score
from tintem_core.export.runtime import EMBEDS, IMAGE, NORMALISED, PIXELS
from tintem_core.models.config import StudentConfig
from tintem_core.models.student import build_student

SIZE, WIDTH = 32, 16
_FORMS = {"onnx": "student.onnx", "uint8": "student_uint8.onnx", "web": "onnx/model.onnx"}


def _graph(seed: int) -> onnx.ModelProto:
    """Patches, a rectifier, their mean."""
    weight = np.random.default_rng(seed).normal(0, 0.1, (WIDTH, 3, 8, 8)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [NORMALISED, "w"], ["c"], strides=[8, 8]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["m"]),
            helper.make_node("Flatten", ["m"], [EMBEDS]),
        ],
        "graph",
        [helper.make_tensor_value_info(NORMALISED, TensorProto.FLOAT, ["b", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(EMBEDS, TensorProto.FLOAT, ["b", WIDTH])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def write_export(
    folder: Path, id: str = "small", seed: int = 0, *, has_score: bool = False
) -> Path:
    """Write an export of three ONNX files, or of one more that scores; returns its folder."""
    # It lends its mean and standard deviation.
    student = build_student(StudentConfig(model="test_resnet", image_size=SIZE), WIDTH, seed=0)
    graph = _graph(seed)
    files = {
        "student.onnx": with_front(graph, student, PIXELS).SerializeToString(),
        "student_uint8.onnx": with_front(graph, student, IMAGE).SerializeToString(),
        "onnx/model.onnx": graph.SerializeToString(),
        "mapping.onnx": b"",
    }
    forms = _FORMS
    if has_score:
        forms = {**_FORMS, "ood": "student_ood.onnx"}
        bank = OutlierBank(np.eye(2, WIDTH, dtype=np.float32), 0.5)
        scoring = with_score(with_front(graph, student, IMAGE), bank)
        files["student_ood.onnx"] = scoring.SerializeToString()
    record: dict[str, Any] = {
        "image_size": SIZE,
        "bits": None,
        "width": WIDTH,
        "normalisation": student.backbone.normalisation,
        "formats": {name: {"file": file} for name, file in forms.items()},
    }
    if has_score:
        record["ood"] = {"threshold": 0.5}
    write_artifact(open_root(folder), "exports", id, files, record)
    return folder / "exports" / id
