import numpy as np
import onnxruntime
import pytest
import torch

from tests.photos import photo
from tintem_core.errors import VerificationError
from tintem_core.export.onnx import ONNX, to_onnx
from tintem_core.export.parity import answers, verify
from tintem_core.export.runtime import session
from tintem_core.models.config import StudentConfig
from tintem_core.models.student import Student, build_student
from tintem_core.views import EVAL, render_view

PIXELS = np.stack([render_view(photo(i), "k", 0, EVAL, 64, 64) for i in range(9)])


@pytest.fixture(scope="module")
def student() -> Student:
    student = build_student(StudentConfig(model="test_resnet", image_size=64), 32, seed=0)
    return student.eval()


@pytest.fixture(scope="module")
def model(student: Student) -> bytes:
    return to_onnx(student, 64, {"tintem.teacher": "someone"})


def test_exported_model_agrees_with_torch_at_every_batch_size(
    student: Student, model: bytes
) -> None:
    found = verify(
        ONNX.open({ONNX.file: model}), answers(student, PIXELS), PIXELS, batch_sizes=(1, 2, 9)
    )
    assert found.images == 9
    assert found.smallest_cosine > 0.99999
    assert found.largest_difference < 1e-3


def test_exported_model_says_what_it_takes_and_where_it_comes_from(model: bytes) -> None:
    opened = session(model)
    assert isinstance(opened.get_inputs()[0].shape[0], str)
    assert opened.get_inputs()[0].shape[1:] == [3, 64, 64]
    assert opened.get_outputs()[0].shape[1] == 32
    assert opened.get_modelmeta().custom_metadata_map["tintem.teacher"] == "someone"


def test_a_model_that_differs_from_its_student_is_refused(model: bytes) -> None:
    other = build_student(StudentConfig(model="test_resnet", image_size=64), 32, seed=1).eval()
    with pytest.raises(VerificationError, match="Nothing was published"):
        verify(ONNX.open({ONNX.file: model}), answers(other, PIXELS), PIXELS)


def test_a_student_that_gives_nan_is_refused(model: bytes, student: Student) -> None:
    broken = build_student(StudentConfig(model="test_resnet", image_size=64), 32, seed=0).eval()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(VerificationError):
        verify(ONNX.open({ONNX.file: model}), answers(broken, PIXELS), PIXELS)


def test_the_runtime_needs_no_torch(model: bytes) -> None:
    pixels = PIXELS[:1].transpose(0, 3, 1, 2).astype(np.float32) / 255
    opened = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (embedding,) = opened.run(["embedding"], {"pixels": pixels})
    assert embedding.shape == (1, 32)


def test_means_and_deviations_of_every_channel_are_in_the_graph() -> None:
    student = build_student(StudentConfig(model="test_resnet", image_size=64), 32, seed=0).eval()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.3, 0.15])
    student.backbone.mean.copy_(mean.view_as(student.backbone.mean))
    student.backbone.std.copy_(std.view_as(student.backbone.std))
    wanted = answers(student, PIXELS)
    found = verify(ONNX.open({ONNX.file: to_onnx(student, 64, {})}), wanted, PIXELS)
    assert found.smallest_cosine > 0.99999
    assert found.largest_difference < 1e-3


def test_one_wrong_photo_of_many_is_enough_to_refuse_a_model() -> None:
    wanted = np.random.default_rng(0).normal(size=(9, 32)).astype(np.float32)
    given = wanted.copy()
    given[6] = -given[6]
    # Each photo says which one it is.
    numbered = np.broadcast_to(np.arange(9, dtype=np.uint8)[:, None, None, None], (9, 4, 4, 3))
    with pytest.raises(VerificationError, match="on photo 6 at batch size 1 the cosine is -1"):
        verify(lambda pixels: given[pixels[:, 0, 0, 0]], wanted, numbered)
    assert verify(lambda pixels: wanted[pixels[:, 0, 0, 0]], wanted, numbered).images == 9
