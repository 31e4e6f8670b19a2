"""Which students a sweep has, and what they are called."""

from pathlib import Path
from typing import Any

import pytest

from flows.config.load import load_config, parse_config
from flows.config.run import RunConfig
from flows.config.sweep import Point, SweepConfig
from tests.runs import write_config
from tintem_core.errors import InputError


def points(**settings: Any) -> tuple[Point, ...]:
    return SweepConfig.model_validate(settings).points("test_resnet")


def test_every_combination_of_a_grid_is_a_student() -> None:
    found = points(
        grid={"student.model": ["a", "b"], "training.objective": ["tintem", "proteus"]},
        list=[{"student.model": "c"}],
    )
    assert [point.name for point in found] == [
        "a, tintem", "a, proteus", "b, tintem", "b, proteus", "c",
    ]  # fmt: skip
    assert found[1].settings == {"student.model": "a", "training.objective": "proteus"}


def test_a_student_of_a_list_may_have_a_name_and_nested_settings() -> None:
    (named, nested, as_it_is) = points(
        list=[
            {"name": "my student", "training.epochs": 9},
            {"training": {"learning_rate": 1e-4, "ema_decay": None}},
            {},
        ]
    )
    assert named.name == "my student"
    assert named.settings == {"training.epochs": 9}
    assert nested.name == "test_resnet, learning_rate=0.0001, ema_decay=none"
    assert as_it_is.name == "test_resnet"


def test_each_seed_trains_every_student_once() -> None:
    found = points(list=[{"name": "a"}, {"name": "b"}], seeds=[0, 7])
    assert [point.name for point in found] == ["a, seed=0", "a, seed=7", "b, seed=0", "b, seed=7"]
    assert [point.variant for point in found] == ["a", "a", "b", "b"]
    assert found[1].settings == {"training.seed": 7}
    assert [point.settings for point in points(seeds=[3])] == [{"training.seed": 3}]


def test_no_two_students_are_called_the_same() -> None:
    found = points(
        grid={"student.weights": ["one/w.pth", "two/w.pth"]}, list=[{"name": "test_resnet, w"}]
    )
    assert [point.name for point in found] == [
        "test_resnet, w (2)", "test_resnet, w (3)", "test_resnet, w",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({}, "a sweep needs students: give grid, list or seeds"),
        ({"grid": {"teacher.image_size": [64, 96]}}, "'teacher.image_size' cannot vary in a sweep"),
        ({"list": [{"cache": {"tokens": True}}]}, "'cache.tokens' cannot vary in a sweep"),
        ({"grid": {"student.model": []}}, "grid gives no value for 'student.model'"),
        ({"seeds": [1, 1]}, "seeds names 1 twice"),
        ({"seeds": [1], "grid": {"training.seed": [1]}}, "grid and seeds both say 'training.seed'"),
        ({"list": [{"name": "a"}, {"name": "a"}]}, "list names 'a' twice"),
        ({"list": [{"name": 3}]}, "list names a student 3: a name is a text"),
        ({"at_once": 0, "seeds": [1]}, "sweep.at_once"),
        ({"grids": {}}, "'sweep.grids' is not a setting"),
    ],
)
def test_a_mistake_is_told_in_a_sentence(
    settings: dict[str, Any], sweep: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        parse_config({**settings, "sweep": sweep}, "test")


def test_weights_of_students_are_looked_for_beside_the_config(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings["sweep"] = {
        "grid": {"student.weights": ["a.pth", "/b.pth"]},
        "list": [{"student.weights": "c.pth"}, {"student": {"weights": "d.pth"}}],
    }
    sweep = load_config(write_config(tmp_path, settings)).sweep
    assert sweep is not None
    assert sweep.grid["student.weights"] == (str(tmp_path / "a.pth"), "/b.pth")
    assert list(sweep.list) == [
        {"student.weights": str(tmp_path / "c.pth")},
        {"student": {"weights": str(tmp_path / "d.pth")}},
    ]


def test_a_sweep_is_no_part_of_what_a_run_is(config: RunConfig) -> None:
    swept = parse_config(
        {**config.model_dump(mode="json", exclude_unset=True), "sweep": {"seeds": [1]}}, "test"
    )
    assert swept.model_copy(update={"sweep": None}) == config
