"""The student with a score that tells photos unlike those it learned from, inside the graph.

Legend: ``B`` batch, ``K`` student width, ``M`` images of the bank.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tintem_core.errors import NotApplicableError
from tintem_core.export.formats import OutlierBank, Subject
from tintem_core.export.onnx import Onnx, with_front
from tintem_core.export.runtime import IMAGE, IS_OUTLIER, OUTPUT, SCORE


def with_score(model: onnx.ModelProto, bank: OutlierBank) -> onnx.ModelProto:
    """Return a graph that also gives the cosine to the nearest embedding of a bank.

    Args:
        model: gives ``embedding``, shape (B, K).
        bank: of the student's own embeddings.

    Returns:
        A model with two outputs more: ``ood_score``, high for photos like those of the training,
        and ``is_ood``, whether it lies below the bank's threshold.
    """
    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in {
            "ood_bank": np.ascontiguousarray(bank.embeddings.T, np.float32),
            "ood_threshold": np.array(bank.threshold, np.float32),
            "ood_axis": np.array([1], np.int64),
        }.items()
    )
    graph.node.extend(
        [
            helper.make_node("ReduceL2", [OUTPUT, "ood_axis"], ["ood_length"], keepdims=1),
            helper.make_node("Div", [OUTPUT, "ood_length"], ["ood_unit"]),
            helper.make_node("MatMul", ["ood_unit", "ood_bank"], ["ood_cosines"]),
            helper.make_node("ReduceMax", ["ood_cosines", "ood_axis"], [SCORE], keepdims=0),
            helper.make_node("Less", [SCORE, "ood_threshold"], [IS_OUTLIER]),
        ]
    )
    batch = graph.output[0].type.tensor_type.shape.dim[0].dim_param
    for name, kind in ((SCORE, TensorProto.FLOAT), (IS_OUTLIER, TensorProto.BOOL)):
        graph.output.append(helper.make_tensor_value_info(name, kind, (batch,)))
    return found


class KnowsOutliers(Onnx):
    """An ONNX file with a score of strangeness; see :func:`with_score`."""

    def files(self, subject: Subject) -> dict[str, bytes]:
        if subject.outliers is None:
            raise NotApplicableError("there are no embeddings that a bank could be chosen from")
        model = with_front(subject.graph, subject.student, IMAGE)
        return {self.file: with_score(model, subject.outliers).SerializeToString()}


OUTLIERS = KnowsOutliers("student_ood.onnx", IMAGE)
