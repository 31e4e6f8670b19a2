"""The mapping that nights keep: whatever the number of photos, and in how many processes."""

from typing import Any

import pytest

from flows.retraining.run import RetrainingResult
from tests.flows.retraining.test_nightly import add, hold, line_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def fitted_with(ended: RetrainingResult) -> str:
    model = line_of(ended)["model"]
    assert model is not None, ended.says
    return str(model["mapping"])


def two_nights(settings: dict[str, Any]) -> RetrainingResult:
    """Hold a night, and one with more photos that keeps its mapping; returns the second."""
    first = hold(settings)
    add(settings, 40, 300)
    second = hold(settings)
    assert line_of(second)["mapping"]["kept"]
    assert fitted_with(second) == fitted_with(first)
    return second


def test_it_is_kept_when_the_photos_outgrow_the_rows_that_it_reads(
    settings: dict[str, Any],
) -> None:
    settings["mapping"] = {"objective": "svd", "moment_rows": 100}
    settings["views"]["count"] = 2
    second = two_nights(settings)
    settings["mapping"]["moment_rows"] = 90
    third = hold(settings, force=True)
    assert "other settings" in line_of(third)["mapping"]["why"]
    assert fitted_with(third) != fitted_with(second)


def test_several_processes_train_with_it(settings: dict[str, Any]) -> None:
    settings["runtime"]["processes"] = 2
    two_nights(settings)
