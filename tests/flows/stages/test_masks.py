"""Linear segmentation on frozen tokens, where masks are given."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flows.config.checks import metrics_of
from flows.reporting.base import reporting_to
from flows.stages.measure_masks import mask_name
from flows.stages.pipeline import Pipeline
from flows.stages.preflight import preflight
from tests.flows.stages.test_pipeline import configured
from tests.runs import Notes
from tintem_core.errors import InputError


@pytest.fixture
def masks(settings: dict[str, Any], tmp_path: Path) -> Path:
    """Photos of two textures side by side, and which is where; some have no mask."""
    photos, folder = Path(settings["data"]["uri"]), tmp_path / "masks"
    rng = np.random.default_rng(0)
    paths = sorted(photos.rglob("*.png"))
    for number, path in enumerate(paths):
        border = int(rng.integers(16, 48))
        pixels = rng.integers(0, 60, (64, 64, 3))
        pixels[:, border:] = 200 + rng.integers(0, 8, (64, 64 - border, 1))
        mask = np.zeros((64, 64), np.uint8)
        mask[:, border:] = 7
        mask[:4] = 255
        if rng.random() < 0.5:
            pixels, mask = pixels[:, ::-1], mask[:, ::-1]
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        if number % 3:
            place = folder / mask_name(str(path.relative_to(photos)))
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(place)
    return folder


def test_teacher_and_student_are_measured_beside_one_class_everywhere(
    settings: dict[str, Any], masks: Path
) -> None:
    plain = Pipeline(configured(settings))
    assert plain.evaluated
    config = configured(settings, evaluation__masks=str(masks))
    run, notes = Pipeline(config), Notes()
    with reporting_to(notes):
        record = run.evaluated.record
    added = set(record["metrics"]) - set(plain.evaluated.record["metrics"])
    assert added == set(metrics_of(config)) - set(metrics_of(plain.config))
    rows = {row["subject"]: row for row in record["rows"] if row["name"] == "miou"}
    assert set(rows) == {"teacher", "student"}
    masked = sum((masks / mask_name(uri)).exists() for uri in run.indexed.data.uris("test"))
    for row in rows.values():
        assert row["n"] == masked < record["test_photos"]
        # One of two classes everywhere: about half of it is right, and nothing of the other.
        assert 0.15 < row["chance"] < 0.4
        assert row["low"] <= row["value"] <= row["high"]
        # Dark and bright are told apart by tokens of random weights.
        assert row["value"] > row["chance"] + 0.15
    assert run.trained.id == plain.trained.id


def test_other_masks_make_another_evaluation_and_another_folder_does_not(
    settings: dict[str, Any], masks: Path
) -> None:
    first = Pipeline(configured(settings, evaluation__masks=str(masks))).evaluated
    moved = masks.rename(masks.with_name("elsewhere"))
    again = Pipeline(configured(settings, evaluation__masks=str(moved))).evaluated
    assert again.reused
    assert again.id == first.id
    next(moved.rglob("*.png")).unlink()
    assert Pipeline(configured(settings, evaluation__masks=str(moved))).evaluated.id != first.id


def test_masks_of_other_photos_are_refused_before_anything_starts(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    config = configured(settings, evaluation__masks=str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"has a mask of no photo of shapes; that of .*\.png"):
        preflight(config)


def test_a_mask_with_colours_is_refused_by_name(settings: dict[str, Any], masks: Path) -> None:
    for path in masks.rglob("*.png"):
        Image.new("RGB", (64, 64)).save(path)
    with pytest.raises(InputError, match=r"\.png has colours \(RGB\)"):
        assert Pipeline(configured(settings, evaluation__masks=str(masks))).evaluated
