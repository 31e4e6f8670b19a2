"""An export in the libraries of others: they give the student's own embeddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastembed
import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton_config

from tests.photos import photo
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.export.formats import Subject, export_format
from tintem_core.export.parity import answers, verify
from tintem_core.export.runtime import session
from tintem_core.export.triton import CONFIG
from tintem_core.models.config import StudentConfig
from tintem_core.models.embedder import to_float
from tintem_core.models.student import build_student
from tintem_core.views import EVAL, render_view

SIZE, WIDTH = 64, 32
PIXELS = np.stack([render_view(photo(i), "k", 0, EVAL, SIZE, SIZE) for i in range(20)])


def subject(model: str = "test_resnet", *, tokens: bool = False) -> Subject:
    config = StudentConfig(model=model, image_size=SIZE)
    student = build_student(config, WIDTH, seed=0, tokens=tokens).eval()
    return Subject(student, SIZE, has_tokens=tokens)


@pytest.fixture(scope="module")
def shared() -> Subject:
    return subject()


@pytest.fixture
def written(shared: Subject, tmp_path: Path) -> Callable[[str], Path]:
    """Write a format into a folder."""

    def write(name: str) -> Path:
        for file, data in export_format(name).files(shared).items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(data)
        return tmp_path

    return write


def test_openvino_reads_the_onnx_file(shared: Subject, written: Callable[[str], Path]) -> None:
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(written("uint8") / "student_uint8.onnx"),
        "CPU",
        {"INFERENCE_PRECISION_HINT": "f32"},
    )

    def embed(pixels: Any) -> Any:
        return compiled({"image": pixels})["embedding"]

    found = verify(embed, answers(shared.student, PIXELS), PIXELS)
    assert found.smallest_cosine > 0.999999


def test_fastembed_reads_the_folder(
    shared: Subject, written: Callable[[str], Path], tmp_path: Path
) -> None:
    # The name is of a model whose file is called the same; nothing is fetched.
    model = fastembed.ImageEmbedding(
        "Qdrant/clip-ViT-B-32-vision", specific_model_path=str(written("web") / "onnx")
    )
    # At the student's own size nothing is resampled.
    photos = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(photos):
        photo(i, (SIZE, SIZE)).save(path)
    seen = np.stack(
        [render_view(photo(i, (SIZE, SIZE)), "k", 0, EVAL, SIZE, SIZE) for i in range(5)]
    )
    found = np.stack(list(model.embed(list(map(str, photos)))))
    assert (found * unit_rows(answers(shared.student, seen))).sum(axis=1).min() > 0.999999


def test_triton_finds_its_model_and_what_it_takes(
    shared: Subject, written: Callable[[str], Path]
) -> None:
    folder = written("triton")
    told = text_format.Parse((folder / CONFIG).read_text(), triton_config.ModelConfig())
    # A model lies in a folder of its name, its versions in numbered ones.
    (file,) = (folder / CONFIG).parent.glob("*/*.onnx")
    assert (file.parent.name, file.name) == ("1", "model.onnx")
    opened = session(file.read_bytes())
    kinds = {"tensor(uint8)": triton_config.TYPE_UINT8, "tensor(float)": triton_config.TYPE_FP32}
    for said, wanted in (
        (told.input, opened.get_inputs()),
        (told.output, opened.get_outputs()),
    ):
        assert [(each.name, each.data_type, list(each.dims)) for each in said] == [
            (each.name, kinds[each.type], each.shape[1:]) for each in wanted
        ]
    assert told.backend == "onnxruntime"
    whole = opened.run(None, {"image": np.concatenate([PIXELS] * 4)[: told.max_batch_size]})[0]
    assert len(whole) == told.max_batch_size == 64


@pytest.mark.parametrize("model", ["test_vit", "test_resnet"])
def test_a_student_with_patch_tokens_gives_them_too(model: str) -> None:
    exported = subject(model, tokens=True)
    form = export_format("web")
    files = form.files(exported)
    verify(form.open(files), answers(exported.student, PIXELS), PIXELS)
    opened = onnxruntime.InferenceSession(files[form.file])
    assert [each.name for each in opened.get_outputs()] == ["image_embeds", "last_hidden_state"]
    with torch.inference_mode():
        values = to_float(torch.from_numpy(PIXELS[:3]), torch.device("cpu"))
        embedding, tokens = exported.student.with_tokens(values)
    backbone = exported.student.backbone
    normalised = ((values - backbone.mean) / backbone.std).numpy()
    found = opened.run(None, {"pixel_values": normalised})
    assert found[0] == pytest.approx(embedding.numpy(), abs=1e-5)
    assert found[1] == pytest.approx(tokens.numpy(), abs=1e-4)
    assert found[1].shape[::2] == (3, WIDTH)
