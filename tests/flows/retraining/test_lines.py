"""A line is of one student on one dataset, whatever they are called."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import parse_config
from flows.config.run import RunConfig
from flows.config.variants import retrained_students
from flows.retraining.run import RetrainingRun
from flows.stages.pipeline import Pipeline
from storage.registry import history, promote
from storage.root import open_root
from tests.flows.config.test_retraining import BASE
from tests.storage.test_registry import model
from tintem_core.errors import InputError


def test_a_night_goes_on_from_no_latest_of_other_data(
    tmp_path: Path, photo_folder: Callable[..., Path]
) -> None:
    photos = {"solar cells": photo_folder(48), "solar-cells": photo_folder(50, name="others")}

    def run(name: str) -> RunConfig:
        data: dict[str, Any] = {"name": name, "uri": str(photos[name]), "test_share": 0.3}
        sections = {"root": str(tmp_path / "root"), "data": data, "evaluation": {}}
        return parse_config({**BASE, **sections}, "run.yaml")

    root, (student,) = open_root(tmp_path / "root"), retrained_students(run("solar cells"))
    learned_from = Pipeline(run("solar cells")).indexed.data.manifest.id
    described = replace(
        model(root, "a"), reference={"manifest": learned_from, "train": 9, "test": 3}
    )
    promote(root, student.line, described, "better", None)

    with pytest.raises(InputError, match=r"learned from 'solar cells', not from 'solar-cells'"):
        RetrainingRun(run("solar-cells")).run()
    assert len(history(root, student.line)) == 1
    assert RetrainingRun(run("solar cells")).run().outcome == "nothing new"
