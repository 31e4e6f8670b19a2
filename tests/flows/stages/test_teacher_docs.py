"""What docs/teachers.md shows: every form is a config, and the functions of the page run."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.config.load import load_config
from flows.stages.pipeline import Pipeline

PAGE = (Path(__file__).parents[3] / "docs" / "teachers.md").read_text(encoding="utf-8")
FORMS = [yaml.safe_load(shown) for shown in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def test_every_kind_of_teacher_has_a_form_of_a_few_lines() -> None:
    kinds = [next(iter(form["teacher"])) for form in FORMS if "teacher" in form]
    assert kinds == ["model", "onnx", "hf", "python"]
    assert all(
        len(shown.splitlines()) <= 10 for shown in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    )


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_form_is_a_config(settings: dict[str, Any], tmp_path: Path, form: dict[str, Any]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**settings, **form}))
    section, given = next(iter(form.items()))
    assert getattr(load_config(file), section).kind == next(iter(given))


def test_settings_in_comments_are_settings(settings: dict[str, Any], tmp_path: Path) -> None:
    (shown,) = (s for s in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "onnx:" in s)
    form = yaml.safe_load(re.sub(r"^  # ", "  ", shown, flags=re.MULTILINE))
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**settings, **form}))
    teacher = load_config(file).teacher
    assert (teacher.scale, teacher.output, teacher.tokens) == (255, "embedding", "patch_tokens")


def test_the_functions_of_the_page_run(settings: dict[str, Any], tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "models.py").write_text(code)
    forms = {name: given for form in FORMS for name, given in form.items() if "python" in given}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({**settings, **forms}))
    assert Pipeline(load_config(file)).exported.record["verification"]["smallest_cosine"] > 0.9999
