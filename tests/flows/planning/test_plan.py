"""A plan tells what will happen, changes nothing, and refuses what cannot end well."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.config.load import load_config
from flows.data.rendering import ViewSource
from flows.planning import disk, rates
from flows.planning import plan as plans
from flows.planning.plan import plan
from flows.planning.table import plan_tables
from flows.planning.times import NOTHING
from flows.stages.pipeline import Pipeline
from storage.errors import SourceError, StorageInputError
from storage.images.synthetic import SyntheticReader
from storage.root import open_root
from tests.runs import write_config
from tintem_core.errors import InputError


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates of a few milliseconds, a probe of a few bytes: their numbers are not what is tested."""
    monkeypatch.setattr(rates, "_SECONDS", 0.01)
    monkeypatch.setattr(disk, "_PIECE", 2**16)


def contents(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_a_plan_before_the_run_counts_what_the_run_then_does(
    config_file: Path, tmp_path: Path
) -> None:
    config = load_config(config_file)
    before = contents(tmp_path)
    found = plan(config)
    assert contents(tmp_path) == before
    assert found.photos == {"shapes": 48}
    assert found.views_reused == 0
    assert found.decoded_photos is not None
    rates = (found.teacher_views, found.decoded_photos, found.trained_images)
    assert all(0 < each.low <= each.value <= each.high for each in rates)
    times = (found.extraction, found.mapping, found.training)
    assert all(0 < each.low <= each.value <= each.high for each in times)
    assert found.in_all.value > sum(each.value for each in times)
    assert found.extraction_limit in ("the teacher", "decoding", "writing")

    pipeline = Pipeline(config)
    assert pipeline.trained
    train = len(pipeline.indexed.data.keys("train"))
    assert found.views == pytest.approx(2 * train + 48, abs=16)
    (chosen,) = (choice for choice in found.choices if choice.chosen)
    assert (chosen.stored, chosen.dtype) == ("global", "float16")
    assert chosen.bytes == found.bytes_needed
    assert chosen.bytes == pytest.approx(pipeline.root.size("caches"), rel=0.25)

    after = plan(config)
    assert after.photos_exact
    assert after.views == after.views_reused == 2 * train + 48
    assert after.bytes_needed == 0
    assert after.extraction == after.mapping == after.training == after.in_all == NOTHING
    assert after.training_steps == pipeline.trained.record["steps"]
    assert after.reused == ("mapping", "student")


def test_images_that_are_drawn_take_the_time_of_drawing_them(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings["support"] = {"synthetic": 30}
    settings["training"]["support"] = 0.2
    config = load_config(write_config(tmp_path, settings))
    (drawn,) = config.support_sources
    rate = rates.Rate(10.0, 10.0, 10.0, 1)

    def decoded(source: ViewSource, *_: object) -> rates.Rate:
        return rates.Rate(1.0, 1.0, 1.0, 1) if isinstance(source.images, SyntheticReader) else rate

    monkeypatch.setattr(plans, "decoded_images", decoded)
    found = plan(config)
    # Both are opened for the teacher and for the student; photos by the index, too, and twice by
    # the teacher: their training views, and what they are measured on.
    assert found.photos == {"shapes": 48, drawn.name: 30}
    assert found.extraction.value > 30
    assert found.training.value > 30
    assert found.in_all.value > 3 * 30


def test_a_plan_for_a_grown_dataset_counts_the_new_photos_only(
    config_file: Path, photo_folder: Any
) -> None:
    config = load_config(config_file)
    pipeline = Pipeline(config)
    assert pipeline.extracted
    photo_folder(10, classes=("disc", "plain"), first=100)
    found = plan(config)
    assert found.photos == {"shapes": 58}
    assert not found.photos_exact
    assert found.views_reused == 2 * len(pipeline.indexed.data.keys("train")) + 48
    assert found.reused == ()


def test_tokens_and_int8_are_weighed_against_each_other(config_file: Path) -> None:
    sizes = {(c.stored, c.dtype): c.bytes for c in plan(load_config(config_file)).choices}
    assert list(sizes) == [
        ("global", "float16"), ("global", "int8"),
        ("global + tokens", "float16"), ("global + tokens", "int8"),
    ]  # fmt: skip
    assert sizes["global", "int8"] < sizes["global", "float16"]
    assert sizes["global + tokens", "int8"] < sizes["global + tokens", "float16"]
    assert sizes["global", "float16"] < sizes["global + tokens", "float16"]


def test_what_the_disk_cannot_hold_is_refused_by_plan_and_by_the_run(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(sys, "argv", ["tintem", "plan", str(config_file), "--json"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert json.loads(printed.out)["bytes_free"] == 1000
    assert "has only 1.0 kB free" in printed.err
    with pytest.raises(InputError, match=r"feature cache of shapes needs .* has only 1\.0 kB free"):
        assert Pipeline(load_config(config_file)).extracted


def test_a_plan_fits_a_terminal(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    for table in plan_tables(plan(load_config(config_file))):
        Console(width=100).print(table)
    printed = capsys.readouterr().out
    for wanted in ("photos of shapes", "48", "teacher", "views/s", "global + tokens", "← this run"):
        assert wanted in printed


def test_the_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    root = open_root(tmp_path / "not" / "yet")
    speed = disk.measure_disk(root)
    assert speed.write > 0
    assert speed.read > 0
    assert contents(tmp_path) == set()
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StorageInputError, match="cannot be written"):
        disk.measure_disk(open_root("/proc/nothing"))


def test_a_mistake_is_told_by_the_plan_already(settings: dict[str, Any], tmp_path: Path) -> None:
    settings["training"]["optimizer"] = "adamx"
    with pytest.raises(InputError, match="knows no optimiser"):
        plan(load_config(write_config(tmp_path, settings)))
    settings["training"]["optimizer"] = "adamw"
    settings["data"]["uri"] = str(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="nowhere"):
        plan(load_config(write_config(tmp_path, settings)))
