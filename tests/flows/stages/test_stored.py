"""A run that is done already is known as such, and only such a one."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import parse_config
from flows.config.run import RunConfig
from flows.stages.pipeline import Pipeline
from flows.stages.results import REPORT
from flows.stages.stored import done_run
from storage.root import open_root
from storage.testing import damaged
from tests.photos import photo, write_photos
from tests.runs import small_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("done")
    write_photos(folder / "photos", range(30))
    settings = small_run(folder, folder / "photos")
    assert done_run(parse_config(settings, "test")) is None
    assert Pipeline(parse_config(settings, "test")).exported
    return settings


@pytest.fixture
def settings(made: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    root, photos = tmp_path / "root", tmp_path / "photos"
    shutil.copytree(made["root"], root)
    shutil.copytree(made["data"]["uri"], photos)
    return {**made, "root": str(root), "data": {**made["data"], "uri": str(photos)}}


def test_a_finished_run_is_found_with_all_that_a_summary_needs(settings: dict[str, Any]) -> None:
    config = parse_config(settings, "test")
    # As the photos were copied, they are looked at again, and found to be the same.
    assert Pipeline(config).exported.reused
    found = done_run(config)
    assert found is not None
    again = Pipeline(config)
    assert found.exported.id == again.exported.id
    assert found.summary() == again.summary()


def other_settings(config: RunConfig) -> RunConfig:
    training = config.training.model_copy(update={"epochs": config.training.epochs + 1})
    return config.model_copy(update={"training": training})


def test_a_run_with_something_to_do_is_not_done(settings: dict[str, Any]) -> None:
    config = parse_config(settings, "test")
    done = Pipeline(config)
    assert done.exported.reused
    assert done_run(other_settings(config)) is None
    root, caches = open_root(settings["root"]), done.extracted.evaluation_caches
    kept = Path(settings["root"]) / "caches" / caches[config.data.name]
    kept.rename(kept.with_name("aside"))
    assert done_run(config) is None
    kept.with_name("aside").rename(kept)
    assert done_run(config) is not None
    photo(99).save(Path(settings["data"]["uri"]) / "disc" / "new.png")
    assert done_run(config) is None
    # The new photo is listed by now, and its student is still to be made.
    assert done_run(config) is None
    assert root.folders("exports")


def test_a_run_of_which_one_byte_of_a_result_differs_is_not_done(settings: dict[str, Any]) -> None:
    config = parse_config(settings, "test")
    done = Pipeline(config)
    places = (
        f"exports/{done.exported.id}/student.onnx",
        f"students/{done.trained.id}/student.safetensors",
        f"mappings/{done.mapped.id}/record.json",
    )
    for place in places:
        path = Path(settings["root"]) / place
        data = path.read_bytes()
        path.write_bytes(damaged(data, len(data) // 2))
        assert done_run(config) is None, place
        path.write_bytes(data)
    assert done_run(config) is not None


def test_a_run_that_was_killed_before_its_report_was_written_is_not_done(
    settings: dict[str, Any],
) -> None:
    config = parse_config(settings, "test")
    done = Pipeline(config).exported
    report = Path(settings["root"]) / "exports" / done.id / REPORT
    report.unlink()
    assert done_run(config) is None
    assert Pipeline(config).exported.reused
    assert report.exists()
    assert done_run(config) is not None
