"""What an evaluation tells of photos under common corruptions."""

import io
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.config.checks import metrics_of
from flows.reporting.base import reporting_to
from flows.stages.measure_corruptions import VIEWS
from flows.stages.pipeline import Pipeline
from storage.artifacts import read_file
from tests.flows.stages.test_pipeline import configured
from tests.runs import Notes, write_teacher
from tintem_core.errors import InputError


@pytest.mark.parametrize("objective", ["tintem", "proteus"])
def test_test_photos_are_measured_under_every_corruption(
    settings: dict[str, Any], objective: str
) -> None:
    plain = Pipeline(configured(settings, training__objective=objective))
    assert plain.evaluated
    notes = Notes()
    with reporting_to(notes):
        config = configured(settings, training__objective=objective, evaluation__corrupted_photos=6)
        run = Pipeline(config)
        record = run.evaluated.record
    work = {title: n for title, n in notes.work.items() if title.startswith("Embed")}
    # Each photo by teacher and student; what the plain evaluation stored is not embedded again.
    assert list(work.values()) == [6 * VIEWS, 6 * VIEWS]
    added = set(record["metrics"]) - set(plain.evaluated.record["metrics"])
    known = set(metrics_of(config)) - set(metrics_of(plain.config))
    # A teacher without an error under some corruption is nothing to be relative to.
    assert {name for name in known if not name.endswith("/mce")} <= added <= known
    assert run.trained.id == plain.trained.id

    who = {"tintem": "student", "proteus": "head"}[objective]
    stored = read_file(run.root, "evaluations", run.evaluated.id, "corruptions.parquet")
    table = pl.read_parquet(io.BytesIO(stored))
    assert table.height == VIEWS
    assert table["corruption"].n_unique() == 15
    assert sorted(set(table["severity"])) == [1, 2, 3, 4, 5]
    for column, name in (
        ("cosine", f"{who}/test/corrupted_cosine_to_mapped"),
        ("constant", "constant/test/corrupted_cosine_to_mapped"),
        ("teacher_knn", "teacher/test/corrupted_knn"),
        ("knn", "student/test/corrupted_knn"),
    ):
        assert table[column].mean() == pytest.approx(record["metrics"][name])
    again = Notes()
    with reporting_to(again):
        assert Pipeline(configured(
            settings, training__objective=objective, evaluation__corrupted_photos=6,
            evaluation__knn=3,
        )).evaluated  # fmt: skip
    assert not any(title.startswith("Embed") for title in again.work)


def test_corruptions_are_no_training_views(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="what students are tested on"):
        configured(settings, views__recipe={"name": "corrupted"})


def test_several_teachers_see_the_corrupted_photos_and_are_joined(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    second = {
        **settings["teacher"],
        "weights": str(write_teacher(tmp_path / "second.safetensors", 1)),
    }
    settings["other_teachers"] = [{**second, "weight": 0.5}]
    run = Pipeline(configured(settings, evaluation__corrupted_photos=6))
    notes = Notes()
    with reporting_to(notes):
        metrics = run.evaluated.record["metrics"]
    work = {title: n for title, n in notes.work.items() if "corrupted" in title}
    assert sum(work.values()) == 3 * 6 * VIEWS
    assert 0 < metrics["student/test/corrupted_cosine_to_mapped"] < 1
    assert 0 < metrics["teacher/test/corrupted_knn"] <= 1
