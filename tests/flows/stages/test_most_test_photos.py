"""Of very many test photos, a draw is measured; the others are neither measured nor learnt from."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from flows.stages import results
from flows.stages.pipeline import Pipeline
from flows.stages.stored import stored_run
from tests.flows.stages.test_pipeline import configured


def test_a_draw_of_many_test_photos_is_measured(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Pipeline(configured(settings))
    everything = set(whole.indexed.data.keys("test"))
    assert whole.indexed.measured is whole.indexed
    assert whole.evaluated.record["test_photos"] == len(everything) > 5
    monkeypatch.setattr(results, "MOST_TEST_PHOTOS", 5)
    run = Pipeline(configured(settings))
    measured = set(run.indexed.measured.data.keys("test"))
    assert measured == set(sorted(everything)[:5])
    assert run.indexed.measured.data.keys("train") == whole.indexed.data.keys("train")
    assert run.trained.id == whole.trained.id
    assert run.evaluated.id != whole.evaluated.id
    assert run.evaluated.record["test_photos"] == 5
    scores = pl.read_parquet(
        tmp_path / "root" / "evaluations" / run.evaluated.id / "ood_scores.parquet"
    )
    own = (pl.col("dataset") == "test") & (pl.col("subject") == "student")
    assert scores.filter(own).height == 5
    # The report and what looks for finished runs see the same ones.
    assert run.exported
    assert stored_run(configured(settings)).evaluated.id == run.evaluated.id
