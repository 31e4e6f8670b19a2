"""A model repository of NVIDIA Triton: the student for whole pixels, and its configuration.

``tritonserver --model-repository FOLDER/triton`` serves it.

Legend: ``B`` batch, ``K`` student width, ``S`` side in pixels.
"""

from tintem_core.export.formats import Subject
from tintem_core.export.onnx import Onnx
from tintem_core.export.runtime import IMAGE, OUTPUT

CONFIG = "triton/student/config.pbtxt"
_LARGEST_BATCH = 64
_TEMPLATE = """\
backend: "onnxruntime"
max_batch_size: {batch}
input {{
  name: "{image}"
  data_type: TYPE_UINT8
  dims: [ {size}, {size}, 3 ]
}}
output {{
  name: "{output}"
  data_type: TYPE_FP32
  dims: [ {width} ]
}}
dynamic_batching {{ }}
"""


class Triton(Onnx):
    """Takes uint8 images (B, S, S, 3), gives embeddings (B, K)."""

    def files(self, subject: Subject) -> dict[str, bytes]:
        width = subject.graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value
        told = _TEMPLATE.format(
            batch=_LARGEST_BATCH, image=IMAGE, output=OUTPUT, size=subject.image_size, width=width
        )
        return {**super().files(subject), CONFIG: told.encode()}


TRITON = Triton("triton/student/1/model.onnx", IMAGE)
