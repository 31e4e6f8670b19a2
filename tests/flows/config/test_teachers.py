"""How a config names a teacher or a student: one of several ways, with the settings of that way."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.config.load import load_config, parse_config
from flows.config.variants import variant
from tintem_core.errors import InputError

PLAIN = {"mean": [0, 0, 0], "std": [1, 1, 1]}


def parsed(teacher: dict[str, Any], student: dict[str, Any] | None = None) -> Any:
    data = {"name": "shapes", "uri": "photos"}
    content = {"data": data, "teacher": teacher, "student": student or {"model": "test_resnet"}}
    return parse_config(content, "run.yaml")


@pytest.mark.parametrize(
    ("teacher", "told"),
    [
        ({}, "give exactly one of model, onnx, hf, python, latents; none is given"),
        ({"model": "a", "onnx": "b.onnx", **PLAIN}, "both model and onnx are given"),
        ({"hf": "a", "python": "b:c"}, "both hf and python are given"),
        ({"onnx": "b.onnx"}, "does not say how its pixels are normalised: give mean and std"),
        ({"onnx": "b.onnx", "mean": [0, 0, 0]}, "give mean and std together"),
        ({"onnx": "b.onnx", **PLAIN, "std": [1, 0, 1]}, "give three numbers above 0"),
        ({"onnx": "b.onnx", **PLAIN, "weights": "w"}, "'weights' is a setting of model, not of o"),
        ({"onnx": "b.onnx", **PLAIN, "precision": "float16"}, "'precision' is a setting of model"),
        ({"model": "a", "pool": "cls"}, "'pool' is a setting of onnx and hf, not of model"),
        ({"hf": "a", "layout": "NHWC"}, "'layout' is a setting of onnx, not of hf"),
        ({"python": "models"}, "'teacher.python' is 'models': string should match pattern"),
        ({"modell": "a"}, "'teacher.modell' is not a setting"),
    ],
)
def test_what_a_teacher_cannot_be_is_one_sentence(teacher: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told) as error:
        parsed(teacher)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("student", "told"),
    [
        ({"image_size": 32}, "give exactly one of model, python; none is given"),
        ({"python": "a:b", "stages": 2}, "'stages' is a setting of model, not of python"),
        ({"python": "a:b", "pretrained": True}, "'pretrained' is a setting of model"),
        ({"onnx": "a.onnx"}, "'student.onnx' is not a setting"),
    ],
)
def test_what_a_student_cannot_be_is_one_sentence(student: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        parsed({"model": "a"}, student)


def test_files_and_functions_are_looked_for_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "dino").mkdir()
    file = tmp_path / "run.yaml"

    def name(teacher: dict[str, Any]) -> Any:
        content = {
            "data": {"name": "shapes", "uri": "photos"},
            "teacher": teacher,
            "student": {"python": "models:student"},
            "sweep": {"grid": {"student.python": ["../models:small"]}},
        }
        file.write_text(yaml.safe_dump(content))
        return load_config(file)

    config = name({"onnx": "some/t.onnx", **PLAIN})
    assert config.teacher.onnx == str(tmp_path / "some/t.onnx")
    assert (config.teacher.name, config.student.name) == ("t.onnx", "models:student")
    assert config.student.python == str(tmp_path / "models:student")
    assert config.sweep.grid["student.python"] == (str(tmp_path / "../models:small"),)
    assert name({"hf": "dino"}).teacher.hf == str(tmp_path / "dino")
    assert name({"hf": "facebook/dinov2-base"}).teacher.hf == "facebook/dinov2-base"
    assert name({"hf": "facebook/dinov2-base"}).teacher.name == "dinov2-base"
    assert name({"python": "nets.big:make"}).teacher.python == str(tmp_path / "nets.big:make")


def test_a_student_of_another_kind_takes_the_place_of_the_one_before() -> None:
    config = parsed({"model": "a"}, {"python": "models:student", "options": {"width": 3}})
    changed = variant(config, {"student.model": "test_vit"}).student
    assert (changed.model, changed.python) == ("test_vit", None)
    back = variant(config, {"student.python": "models:other"}).student
    assert back.python == "models:other"


def test_ids_of_timm_students_say_nothing_of_other_kinds() -> None:
    identity = parsed({"model": "a"}, {"model": "test_vit"}).student.identity()
    assert sorted(identity) == [
        "image_size", "model", "options", "partial_weights", "pretrained", "weights",
    ]  # fmt: skip
    mine = parsed({"model": "a"}, {"python": "x/y/models:student"}).student.identity()
    assert mine["python"] == "models:student"
    assert "model" not in mine
