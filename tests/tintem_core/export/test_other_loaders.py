"""An export in the libraries of others: they give the student's own embeddings."""

import json
import subprocess
import venv
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from tests.photos import photo
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.export.formats import Subject, export_format
from tintem_core.export.parity import answers, verify
from tintem_core.export.runtime import session
from tintem_core.models.config import StudentConfig
from tintem_core.models.embedder import to_float
from tintem_core.models.student import build_student
from tintem_core.views import EVAL, render_view

LOADERS = Path(__file__).parents[2] / "loaders"
SIZE, WIDTH = 64, 32
PIXELS = np.stack([render_view(photo(i), "k", 0, EVAL, SIZE, SIZE) for i in range(20)])


def subject(model: str = "test_resnet", *, tokens: bool = False) -> Subject:
    config = StudentConfig(model=model, image_size=SIZE)
    student = build_student(config, WIDTH, seed=0, tokens=tokens).eval()
    return Subject(student, SIZE, has_tokens=tokens)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has the libraries."""
    folder = tmp_path_factory.mktemp("loaders") / "venv"
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "pip", "--quiet", "install", "-r", LOADERS / "requirements.txt"]
    subprocess.run(pip, check=True, timeout=280)
    return folder / "bin" / "python"


@pytest.mark.slow
def test_openvino_fastembed_and_triton_read_the_folder(python: Path, tmp_path: Path) -> None:
    exported = subject()
    for name in ("uint8", "web", "triton"):
        for file, data in export_format(name).files(exported).items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(data)
    photos = [tmp_path / f"{i}.png" for i in range(len(PIXELS))]
    for path, pixels in zip(photos, PIXELS, strict=True):
        Image.fromarray(pixels).save(path)
    done = subprocess.run(
        [python, LOADERS / "load.py", tmp_path, *photos], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    wanted = answers(exported.student, PIXELS)
    for name in ("openvino", "fastembed"):
        found = np.array(told[name], np.float32)
        assert (unit_rows(found) * unit_rows(wanted)).sum(axis=1).min() > 0.999999, name
    assert np.array(told["openvino"]) == pytest.approx(wanted, abs=1e-4)

    # A model lies in a folder of its name, its versions in numbered ones.
    (file,) = tmp_path.glob("triton/*/*/*.onnx")
    assert (file.parent.name, file.name) == ("1", "model.onnx")
    opened, config = session(file.read_bytes()), told["triton"]
    kinds = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}
    for side, those in (("input", opened.get_inputs()), ("output", opened.get_outputs())):
        assert config[side] == [
            {
                "name": each.name,
                "data_type": kinds[each.type],
                "dims": [str(n) for n in each.shape[1:]],
            }
            for each in those
        ]
    assert config["backend"] == "onnxruntime"
    whole = opened.run(
        None, {"image": np.resize(PIXELS, (config["max_batch_size"], SIZE, SIZE, 3))}
    )
    assert len(whole[0]) == 64


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
