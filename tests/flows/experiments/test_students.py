"""What is known of a sweep's students before any of them is trained."""

import json
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from flows.config.load import parse_config
from flows.data.dataset import Dataset
from flows.experiments.students import (
    assign_ids,
    finish,
    plan_students,
    refuse_unlabelled,
    select_students,
)
from flows.stages.pipeline import Pipeline
from flows.stages.results import to_ids
from storage.artifacts import read_file
from tintem_core.errors import InputError


def test_students_are_known_by_the_ids_that_their_trainings_will_have(
    settings: dict[str, Any],
) -> None:
    settings["sweep"] = {
        "list": [
            {"name": "as it is"},
            {"name": "the same", "mapping.width": 32},
            {"name": "narrow", "mapping.width": 16},
            {"name": "other objective", "training.objective": "proteus"},
        ],
        "seeds": [0, 1],
    }
    config = parse_config(settings, "test")
    base = Pipeline(config)
    students = assign_ids(plan_students(config), base.indexed, base.extracted)
    assert [student.name for student in students] == [
        "as it is, seed=0", "as it is, seed=1", "narrow, seed=0", "narrow, seed=1",
        "other objective, seed=0", "other objective, seed=1",
    ]  # fmt: skip
    assert students[0].twins == ("the same, seed=0",)
    assert len({student.id for student in students}) == 6
    assert len({student.mapping for student in students}) == 2

    alone = Pipeline(students[3].config)
    assert alone.mapped.id == students[3].mapping
    assert alone.trained.id == students[3].id


def test_a_student_that_shares_its_stages_is_the_one_that_a_run_alone_trains(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["sweep"] = {"grid": {"training.objective": ["tintem", "proteus"]}}
    config = parse_config(settings, "test")
    training = {**settings["training"], "objective": "proteus"}
    elsewhere = {"root": f"{settings['root']}-alone", "training": training}
    alone = Pipeline(parse_config({**settings, **elsewhere, "sweep": None}, "test"))
    weights = read_file(alone.root, "students", alone.trained.id, "student.safetensors")
    base = Pipeline(config)
    handed = json.loads(json.dumps(to_ids(base.indexed, base.all_caches, base.mapped)))
    # Its own stages are there already: nothing is listed, embedded or fitted again.
    for stage in ("index", "extract", "fit"):
        monkeypatch.setattr(f"flows.stages.pipeline.{stage}", None)
    # Converting a model takes seconds, and is tested elsewhere.
    monkeypatch.setattr(Pipeline, "exported", base.mapped)
    student = assign_ids(plan_students(config), base.indexed, base.extracted)[1]
    found = finish(student.config, handed)
    assert found["student"] == student.id == alone.trained.id
    assert read_file(base.root, "students", student.id, "student.safetensors") == weights
    assert base.root.exists(f"evaluations/{found['evaluation']}/record.json")


def test_students_are_chosen_by_name(settings: dict[str, Any]) -> None:
    settings["sweep"] = {"list": [{"name": "a 1"}, {"name": "a 2"}, {"name": "b [x]"}]}
    students = plan_students(parse_config(settings, "test"))
    assert select_students(students, []) == {"a 1", "a 2", "b [x]"}
    assert select_students(students, ["a*"]) == {"a 1", "a 2"}
    assert select_students(students, ["b [x]"]) == {"b [x]"}
    with pytest.raises(InputError, match=r"no student 'c': it has a 1; a 2; b \[x\]"):
        select_students(students, ["c"])


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"grid": {"student.model": ["test_resnet", "resnet_x"]}}, r"sweep.grid \(resnet_x\): .*"),
        ({"list": [{"name": "wide", "mapping.width": 9999}]}, r"sweep.list\[0\] \(wide\): .*9999"),
        ({"list": [{"training.epochs": 0}]}, r"sweep.list\[0\] .*'training.epochs' is 0"),
    ],
)
def test_a_student_that_cannot_start_is_refused_before_any_starts(
    settings: dict[str, Any], sweep: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        plan_students(parse_config({**settings, "sweep": sweep}, "test"))


def test_a_config_without_a_sweep_is_told_how_one_looks(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="the config has no sweep: give one"):
        plan_students(parse_config(settings, "test"))


def test_a_metric_that_nothing_gives_is_refused_before_any_training(
    settings: dict[str, Any],
) -> None:
    settings["sweep"] = {"seeds": [0], "metric": "student/test/pairwise_person"}
    with pytest.raises(InputError, match=r"closest first: student/test/pairwise_pearson, "):
        plan_students(parse_config(settings, "test"))
    for metric in ("head/test/cka_linear", "teacher/test/knn"):
        settings["sweep"]["metric"] = metric
        with pytest.raises(InputError, match="not measured for any student"):
            plan_students(parse_config(settings, "test"))
    settings["sweep"]["metric"] = "head/test/cka_linear"
    settings["sweep"]["list"] = [{"training.objective": "proteus"}]
    assert len(plan_students(parse_config(settings, "test"))) == 1


def test_what_only_labels_tell_ranks_no_photos_without_labels(settings: dict[str, Any]) -> None:
    settings["sweep"] = {"seeds": [0], "metric": "student/test/knn"}
    config = parse_config(settings, "test")
    manifest = Pipeline(config).indexed.data.manifest
    refuse_unlabelled(config, Dataset(manifest))
    bare = manifest.table.with_columns(label=pl.lit(None, pl.String))
    with pytest.raises(InputError, match="photos of shapes have none: label them"):
        refuse_unlabelled(config, Dataset(replace(manifest, table=bare)))
