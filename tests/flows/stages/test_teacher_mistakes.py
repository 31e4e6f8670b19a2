"""Teachers and students beyond timm that cannot work: one sentence each, before any work."""

from pathlib import Path
from typing import Any

import pytest

from flows.stages.preflight import preflight
from tests.flows.stages.test_teachers import run
from tintem_core.errors import InputError


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nothing_like_it\n", "cannot be imported: ModuleNotFoundError: No module named"),
        ("def other(): ...\n", "has no function teacher: it has other"),
        ("def teacher(): raise ValueError('no weights')\n", "failed with ValueError: no weights"),
        ("def teacher(): return 3\n", "returns int: let it return an nn.Module"),
        (
            "from torch import nn\ndef teacher(): return nn.Flatten(0)\n",
            r"embeddings of shape \(24576,\), not \(2, width\)",
        ),
        (
            "from torch import nn\ndef teacher(): return nn.Linear(3, 4)\n",
            r"cannot be run on pixels of shape \(2, 3, 64, 64\)",
        ),
        (
            "from torch import nn\n"
            "class Net(nn.Module):\n"
            "    def forward(self, pixels): return {'embedding': pixels}\n"
            "def teacher(): return Net()\n",
            "its module returns dict: let forward return",
        ),
        (
            "from torch import nn\n"
            "class Net(nn.Module):\n"
            "    def forward(self, pixels): return pixels.flatten(1)[:, :64] / 0 * 0\n"
            "def teacher(): return Net()\n",
            "gives numbers that are not finite",
        ),
    ],
)
def test_a_function_that_does_not_fit_is_one_sentence_with_its_name(
    settings: dict[str, Any], tmp_path: Path, code: str, told: str, request: Any
) -> None:
    name = f"bad_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(code)
    teacher = {"python": f"{name}:teacher", "image_size": 64}
    with pytest.raises(InputError, match=told) as error:
        preflight(run(settings, tmp_path, teacher=teacher))
    assert f"{name}:teacher" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_student_that_gives_no_numbers_is_refused_before_the_training(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "hollow.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(3, 32)\n"
        "    def forward(self, pixels): return self.layer(pixels.mean((2, 3)) / 0 * 0)\n"
        "def student(): return Net()\n"
    )
    student = {"python": "hollow:student", "image_size": 32}
    with pytest.raises(InputError, match=r"student\.python: hollow:student .*not finite"):
        preflight(run(settings, tmp_path, student=student))


def test_a_name_that_the_hub_would_have_to_give_is_one_sentence_without_a_network(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    config = run(settings, tmp_path, teacher={"hf": "nobody/nothing", "image_size": 64})
    with pytest.raises(InputError, match=r"nobody/nothing cannot be loaded .*network once") as told:
        preflight(config)
    assert "\n" not in str(told.value)


def test_without_transformers_the_command_that_brings_it_is_told(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tintem_core.models import teacher

    monkeypatch.setattr(teacher, "find_spec", lambda _: None)
    config = run(settings, tmp_path, teacher={"hf": "a/b-none", "image_size": 64})
    with pytest.raises(InputError, match=r"pip install 'tintem\[hf\]'"):
        preflight(config)
