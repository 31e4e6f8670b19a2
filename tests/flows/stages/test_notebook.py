"""What docs/notebook.md shows is what works, in the order in which it is shown."""

import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.stages.pipeline import Pipeline

PAGE = (Path(__file__).parents[3] / "docs" / "notebook.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_example_is_at_most_ten_lines() -> None:
    assert len(BLOCKS) == 8
    assert all(len(block.splitlines()) <= 10 for block in BLOCKS)


def test_the_examples_run_and_give_what_they_say(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config_file.rename(config_file.parent / "tintem.yaml")
    shutil.copy(next(tmp_path.rglob("photo-0000.png")), tmp_path / "photo.jpg")
    monkeypatch.chdir(config_file.parent)
    monkeypatch.syspath_prepend(str(config_file.parent))
    Path("models.py").write_text("".join(block for block in BLOCKS if "\ndef " in f"\n{block}"))
    found: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, found)
    photos = len(found["photos"].keys("train"))
    assert found["features"].shape[0] == len(found["paths"]) == len(found["labels"]) == photos
    assert set(found["labels"]) == {"disc", "plain"}
    assert all(label in path for path, label in zip(found["paths"], found["labels"], strict=True))
    assert found["linear"].weight.grad.isfinite().all()
    assert all(each.grad.isfinite().all() for each in found["small"].parameters())
    assert found["mine"].trained.record["spec"]["student"]["python"] == "models:student"
    assert found["embedding"].shape == (32,)
    assert Path(f"{found['run'].exported.location}/student.onnx").is_file()


def test_every_part_of_a_pipeline_says_what_it_is() -> None:
    parts = [name for name in vars(Pipeline) if not name.startswith("_")]
    assert len(parts) >= 8
    assert all(vars(Pipeline)[name].__doc__ for name in parts)


NAMES = [
    (module, name)
    for module, names in re.findall(r"^\| `([a-z_.]+)` \| (`.*) \|$", PAGE, re.MULTILINE)
    for name in re.findall(r"`(\w+)`", names)
]


def test_the_names_of_the_page_are_listed() -> None:
    assert len(NAMES) >= 30


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_name_of_the_page_is_there_and_says_what_it_is(module: str, name: str) -> None:
    place = importlib.import_module(module)
    assert place.__doc__
    thing = getattr(place, name, None) or vars(Pipeline)[name]
    assert thing.__doc__
