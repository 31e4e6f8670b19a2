"""ONNX files as teachers, from small graphs whose answers are known."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from tintem_core.errors import InputError
from tintem_core.models.base import prefix_tokens
from tintem_core.models.onnx import OnnxModel, OnnxSettings

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
SIZE = 8


def write(
    path: Path,
    shape: list[Any],
    nodes: list[Any],
    outputs: dict[str, list[Any]],
    dtype: int = TensorProto.FLOAT,
    more_inputs: tuple[Any, ...] = (),
) -> str:
    """Write a model of an input `x`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", dtype, shape), *more_inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return str(path)


def colours(path: Path, shape: list[Any], axes: tuple[int, int] = (2, 3)) -> str:
    """Write a model that answers with the mean of each colour."""
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=list(axes), keepdims=0)
    return write(path, shape, [node], {"y": [shape[0], 3]})


def patches(path: Path, tokens: int, batch: Any = "b") -> str:
    """Write a model whose tokens are the first pixels, and whose vector is the mean colour."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0),
        helper.make_node(
            "Constant", [], ["shape"],
            value=helper.make_tensor("s", TensorProto.INT64, [3], [-1, 3, SIZE * SIZE]),
        ),
        helper.make_node("Reshape", ["x", "shape"], ["pixels"]),
        helper.make_node("Transpose", ["pixels"], ["all"], perm=[0, 2, 1]),
        helper.make_node("Constant", [], ["start"],
                         value=helper.make_tensor("a", TensorProto.INT64, [1], [0])),
        helper.make_node("Constant", [], ["end"],
                         value=helper.make_tensor("e", TensorProto.INT64, [1], [tokens])),
        helper.make_node("Constant", [], ["axis"],
                         value=helper.make_tensor("x1", TensorProto.INT64, [1], [1])),
        helper.make_node("Slice", ["all", "start", "end", "axis"], ["tokens"]),
    ]  # fmt: skip
    return write(
        path,
        [batch, 3, SIZE, SIZE],
        nodes,
        {"tokens": [batch, tokens, 3], "y": [batch, 3]},
    )


def opened(path: str, size: int = SIZE, **settings: Any) -> OnnxModel:
    return OnnxModel(path, OnnxSettings(MEAN, STD)._replace(**settings), size, "cpu", 0)


def some_pixels(images: int = 3) -> torch.Tensor:
    return torch.rand(images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def expected(pixels: torch.Tensor, scale: int = 1) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (pixels * scale - mean) / std


@pytest.mark.parametrize("batch", ["b", None, 1, 2])
@pytest.mark.parametrize("scale", [1, 255])
def test_any_batch_axis_and_scale_gives_the_same_answers(
    tmp_path: Path, batch: Any, scale: int
) -> None:
    model = opened(colours(tmp_path / "m.onnx", [batch, 3, SIZE, SIZE]), scale=scale)
    pixels = some_pixels()
    wanted = expected(pixels, scale).mean((2, 3))
    torch.testing.assert_close(model(pixels), wanted, rtol=1e-4, atol=1e-4)
    assert (model.width, model.name) == (3, "m.onnx")


def test_the_layout_is_found_from_the_shape(tmp_path: Path) -> None:
    columns = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)
    path = write(tmp_path / "m.onnx", ["b", SIZE, SIZE, 3], [columns], {"y": ["b", SIZE, 3]})
    pixels = some_pixels().to(memory_format=torch.channels_last)
    model = opened(path, pool="cls")
    torch.testing.assert_close(model(pixels), expected(pixels).mean(2)[:, :, 0])
    assert model.settings()["layout"] == "NHWC"


def test_a_shape_that_says_nothing_is_taken_as_the_setting_says(tmp_path: Path) -> None:
    path = colours(tmp_path / "m.onnx", ["b", "h", "w", "c"], axes=(1, 2))
    pixels = some_pixels()
    found = opened(path, layout="NHWC")(pixels)
    torch.testing.assert_close(found, expected(pixels).mean((2, 3)))


def test_pixels_as_whole_numbers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["y"], axes=[2, 3], keepdims=0),
    ]
    path = write(tmp_path / "m.onnx", ["b", 3, SIZE, SIZE], nodes, {"y": ["b", 3]},
                 TensorProto.UINT8)  # fmt: skip
    pixels = torch.from_numpy(np.arange(3 * SIZE * SIZE, dtype=np.float32) % 256).view(
        1, 3, SIZE, SIZE
    )
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    found = opened(path, scale=255, **plain)(pixels / 255)
    torch.testing.assert_close(found, pixels.mean((2, 3)))
    with pytest.raises(InputError, match=r"teacher\.scale: .* 0\.\.255"):
        opened(path)


@pytest.mark.parametrize(("tokens", "prefix"), [(17, 1), (16, 0), (21, 5), (18, 2)])
def test_prefix_tokens_are_cut_from_the_patches(tmp_path: Path, tokens: int, prefix: int) -> None:
    model = opened(patches(tmp_path / "m.onnx", tokens), tokens="tokens")
    pixels = some_pixels()
    embedding, found = model.forward_with_tokens(pixels)
    every = expected(pixels).flatten(2).transpose(1, 2)[:, :tokens]
    torch.testing.assert_close(found, every[:, prefix:])
    torch.testing.assert_close(embedding, expected(pixels).mean((2, 3)))
    assert model.settings()["prefix_tokens"] == prefix


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_sequence_without_a_vector_is_pooled_by_name(tmp_path: Path, pool: str) -> None:
    path = patches(tmp_path / "m.onnx", 17)
    model = opened(path, output="tokens", pool=pool)
    pixels = some_pixels()
    every = expected(pixels).flatten(2).transpose(1, 2)[:, :17]
    wanted = every[:, 0] if pool == "cls" else every[:, 1:].mean(1)
    embedding, tokens = model.forward_with_tokens(pixels)
    torch.testing.assert_close(embedding, wanted)
    torch.testing.assert_close(model(pixels), wanted)
    torch.testing.assert_close(tokens, every[:, 1:])


@pytest.mark.parametrize(
    ("settings", "size", "told"),
    [
        ({"output": "z"}, SIZE, r"teacher\.output: m\.onnx has no output 'z': it has 'tokens'"),
        ({"tokens": "z"}, SIZE, r"teacher\.tokens: m\.onnx has no output 'z'"),
        ({"input": "z"}, SIZE, r"teacher\.input: m\.onnx has no input 'z': it has 'x'"),
        ({"output": "tokens"}, SIZE, r"teacher\.pool: 'tokens' .*set pool to cls"),
        ({"pool": "cls"}, SIZE, r"teacher\.pool: 'y' is one vector already"),
        ({"layout": "NHWC"}, SIZE, r"teacher\.layout: .*not that of colour images in NHWC"),
        ({}, 16, r"teacher\.image_size is 16, .*set teacher\.image_size to 8"),
        ({"tokens": "tokens", "prefix_tokens": 17}, SIZE, r"teacher\.prefix_tokens is 17"),
        ({"tokens": "y"}, SIZE, r"teacher\.tokens: 'y' .*not \(2, tokens, width\)"),
    ],
)
def test_a_setting_that_does_not_fit_is_one_sentence(
    tmp_path: Path, settings: dict[str, Any], size: int, told: str
) -> None:
    path = patches(tmp_path / "m.onnx", 17)
    with pytest.raises(InputError, match=told) as error:
        opened(path, size, **settings)
    assert "\n" not in str(error.value)


def test_two_vectors_need_a_name(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0),
        helper.make_node("ReduceMax", ["x"], ["z"], axes=[2, 3], keepdims=0),
    ]
    path = write(tmp_path / "m.onnx", ["b", 3, SIZE, SIZE], nodes,
                 {"y": ["b", 3], "z": ["b", 3]})  # fmt: skip
    with pytest.raises(InputError, match=r"teacher\.output: m\.onnx gives 'y' .*'z' .*name the"):
        opened(path)
    pixels = some_pixels()
    torch.testing.assert_close(opened(path, output="z")(pixels), expected(pixels).amax((2, 3)))


def test_a_model_that_wants_more_than_pixels_is_refused(tmp_path: Path) -> None:
    more = helper.make_tensor_value_info("words", TensorProto.FLOAT, ["b", 3])
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Add", ["m", "words"], ["y"]),
    ]
    path = write(tmp_path / "m.onnx", ["b", 3, SIZE, SIZE], nodes, {"y": ["b", 3]},
                 more_inputs=(more,))  # fmt: skip
    with pytest.raises(InputError, match=r"takes 'x'.*'words'.*nothing to give it but pixels"):
        opened(path)


def test_tokens_that_are_not_there_are_said(tmp_path: Path) -> None:
    model = opened(colours(tmp_path / "m.onnx", ["b", 3, SIZE, SIZE]))
    with pytest.raises(InputError, match=r"m\.onnx gives no single grid of patch tokens"):
        model.forward_with_tokens(some_pixels())


def test_memory_that_runs_out_is_told_as_torch_tells_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(colours(tmp_path / "m.onnx", ["b", 3, SIZE, SIZE]))

    class Full:
        def run(self, *_: Any) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 1")

    monkeypatch.setattr(model, "_session", Full())
    with pytest.raises(torch.OutOfMemoryError):
        model(some_pixels())


@pytest.mark.parametrize(("count", "prefix"), [(196, 0), (197, 1), (198, 2), (201, 5), (200, 0)])
def test_prefixes_are_what_squares_leave_over(count: int, prefix: int) -> None:
    assert prefix_tokens(count) == prefix
