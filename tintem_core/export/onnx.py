"""A trained student as ONNX files.

One graph is exported from torch. Its fronts turn what a caller has into what the graph takes.

Legend: ``B`` batch, ``T`` patch tokens, ``K`` student width, ``S`` side in pixels.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from tintem_core.export.formats import Embed, ExportFormat, Subject
from tintem_core.export.runtime import (
    EMBEDS,
    IMAGE,
    NORMALISED,
    OUTPUT,
    PIXELS,
    TOKENS,
    run_onnx,
    session,
)
from tintem_core.models.student import Student


def _from_normalised(student: Student) -> Student:
    """Return the student for pixels that are normalised already."""
    alike = copy.deepcopy(student)
    alike.backbone.mean.zero_()
    alike.backbone.std.fill_(1)
    return alike


class _WithTokens(torch.nn.Module):
    """A student that gives its patch tokens too."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.student.with_tokens(pixels)


def to_graph(
    student: Student, image_size: int, description: Mapping[str, str], *, tokens: bool = False
) -> onnx.ModelProto:
    """Export to ONNX, weights inside, dynamic batch axis.

    Args:
        student: the trained student, on any device.
        image_size: S.
        description: written into the model's metadata.
        tokens: whether patch tokens are a second output.

    Returns:
        A model from ``pixel_values`` (float32, RGB, normalised by the student's mean and standard
        deviation, shape (B, 3, S, S)) to ``image_embeds`` (float32, shape (B, K)), and, if they
        are wanted, ``last_hidden_state`` (float32, shape (B, T, K)).
    """
    student = student.cpu().eval()
    plain = _from_normalised(student)
    inner = _WithTokens(plain) if tokens else plain
    example = torch.zeros(2, 3, image_size, image_size)
    # The exporter reports its own progress and its own deprecations: nothing a user can act on.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    quiet = contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), quiet, _plain_attention(inner):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            inner,
            (example,),
            input_names=[NORMALISED],
            output_names=[EMBEDS, TOKENS] if tokens else [EMBEDS],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1)}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for key, value in description.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model


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


def with_front(graph: onnx.ModelProto, student: Student, name: str) -> onnx.ModelProto:
    """Return a graph that normalises inside, and gives ``embedding``.

    Args:
        graph: of :func:`to_graph`.
        student: has the mean and the standard deviation.
        name: ``pixels`` (float32, RGB, 0..1, shape (B, 3, S, S)) or ``image`` (uint8, RGB, shape
            (B, S, S, 3)).
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    batch, _, side, _ = model.graph.input[0].type.tensor_type.shape.dim
    shape = {
        PIXELS: (batch.dim_param, 3, side.dim_value, side.dim_value),
        IMAGE: (batch.dim_param, side.dim_value, side.dim_value, 3),
    }[name]
    nodes, last = [], name
    if name == IMAGE:
        nodes = [
            helper.make_node("Cast", [name], ["front_float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["front_float"], ["front_planes"], perm=[0, 3, 1, 2]),
            helper.make_node("Div", ["front_planes", "front_255"], ["front_pixels"]),
        ]
        last = "front_pixels"
    backbone = student.backbone
    values = {
        "front_255": np.array(255, np.float32),
        "front_mean": backbone.mean.numpy(force=True).astype(np.float32),
        "front_std": backbone.std.numpy(force=True).astype(np.float32),
    }
    nodes += [
        helper.make_node("Sub", [last, "front_mean"], ["front_centred"]),
        helper.make_node("Div", ["front_centred", "front_std"], [NORMALISED]),
    ]
    used = {source for node in nodes for source in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(value, key) for key, value in values.items() if key in used
    )
    rest = list(model.graph.node)
    for node in rest:
        for names in (node.input, node.output):
            names[:] = [OUTPUT if value == EMBEDS else value for value in names]
    model.graph.output[0].name = OUTPUT
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend([*nodes, *rest])
    kind = TensorProto.UINT8 if name == IMAGE else TensorProto.FLOAT
    model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    return model


def to_onnx(
    student: Student, image_size: int, description: dict[str, str], front: str = PIXELS
) -> bytes:
    """Export to ONNX with pixel normalisation inside.

    Args:
        student, image_size, description: see :func:`to_graph`.
        front: see :func:`with_front`.
    """
    graph = to_graph(student, image_size, description)
    return with_front(graph, student, front).SerializeToString()


class Onnx(ExportFormat):
    """An ONNX file that normalises inside; see :func:`with_front`."""

    def __init__(self, file: str, front: str) -> None:
        self.file, self._front = file, front

    def files(self, subject: Subject) -> dict[str, bytes]:
        model = with_front(subject.graph, subject.student, self._front)
        return {self.file: model.SerializeToString()}

    def open(self, files: Mapping[str, bytes]) -> Embed:
        return partial(run_onnx, session(files[self.file]))


ONNX = Onnx("student.onnx", PIXELS)
UINT8 = Onnx("student_uint8.onnx", IMAGE)
