"""The mapping as an ONNX file: a server's teacher and a device's student then share one index.

Legend: ``B`` batch, ``D`` teacher width, ``K`` student width.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tintem_core.mapping.module import Mapping

_OPSET, _IR = 17, 8


def mapping_to_onnx(mapping: Mapping) -> bytes:
    """Return a model from ``latents`` (float32, (B, D)) to ``embedding`` (float32, (B, K))."""
    dim, width = mapping.linear.in_features, mapping.linear.out_features
    tensors = {"weight": mapping.linear.weight, "bias": mapping.linear.bias}
    nodes, last, attributes = [], "latents", {}
    if hasattr(mapping.norm, "eps"):
        tensors |= {"norm_weight": mapping.norm.weight, "norm_bias": mapping.norm.bias}
        attributes = {"epsilon": mapping.norm.eps, "axis": -1}
        nodes = [
            helper.make_node(
                "LayerNormalization", [last, "norm_weight", "norm_bias"], ["normed"], **attributes
            )
        ]
        last = "normed"
    held = {
        name: tensor.numpy(force=True).astype(np.float32)
        for name, tensor in tensors.items()
        if tensor is not None
    }
    inputs = [last, "weight", *(["bias"] if "bias" in held else [])]
    nodes.append(helper.make_node("Gemm", inputs, ["embedding"], transB=1))
    graph = helper.make_graph(
        nodes,
        "mapping",
        [helper.make_tensor_value_info("latents", TensorProto.FLOAT, ("batch", dim))],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ("batch", width))],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR
    )
    return model.SerializeToString()
