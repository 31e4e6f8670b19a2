"""What is refused before any work."""

import os
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import parse_config
from flows.stages import preflight as stage
from flows.stages.preflight import preflight, try_student
from tintem_core.errors import InputError
from tintem_core.models.student import Student


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/tintem/tried"


def test_a_student_is_trained_and_exported_once_before_the_work(
    settings: dict[str, Any], cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse_config(settings, "test")
    preflight(config)
    assert len(list(cache_folder.iterdir())) == 1

    def refuse(*_: Any) -> None:
        raise AssertionError("tried again")

    monkeypatch.setattr(stage, "_try_student", refuse)
    preflight(config)
    settings["student"]["image_size"] = 48
    with pytest.raises(AssertionError, match="tried again"):
        preflight(parse_config(settings, "test"))


def test_a_student_that_cannot_be_trained_is_named_with_the_reason(
    settings: dict[str, Any], cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("shape '[2, 3]' is invalid\nmore of it")

    monkeypatch.setattr(Student, "forward", fail)
    said = r"student\.model: test_resnet at 32 px cannot be trained: shape '\[2, 3\]' is invalid\."
    with pytest.raises(InputError, match=said):
        try_student(parse_config(settings, "test"), 32, None)
    assert not cache_folder.exists()


@pytest.mark.parametrize("model", ["nest_tiny", "maxvit_pico_rw_256", "beit_base_patch16_224"])
@pytest.mark.slow
def test_models_with_fused_attention_are_exported(settings: dict[str, Any], model: str) -> None:
    size = 256 if "256" in model else 224
    settings["student"] = {"model": model, "image_size": size}
    try_student(parse_config(settings, "test"), 32, None)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("processes", 4000, r"runtime\.processes would start 4,000 on this machine of \d+ cores"),
        ("loader_workers", 1000, r"runtime\.loader_workers would start 1,000"),
        ("memory_gb", 900_000, r"runtime\.memory_gb is 900000, but this machine has \d+ GB"),
    ],
)
def test_what_would_take_the_machine_down_is_refused(
    settings: dict[str, Any], key: str, value: int, said: str
) -> None:
    assert (os.cpu_count() or 1) < 1000
    settings["runtime"][key] = value
    with pytest.raises(InputError, match=said):
        preflight(parse_config(settings, "test"))


def test_a_score_that_compares_classes_needs_labels(
    settings: dict[str, Any], photo_folder: Any
) -> None:
    settings["data"]["uri"] = str(photo_folder(8, name="flat"))
    settings["evaluation"]["ood_score"] = "relative-mahalanobis"
    with pytest.raises(InputError, match="compares classes, and no photo of shapes has a label"):
        preflight(parse_config(settings, "test"))


def test_groups_by_columns_that_are_not_there_are_refused(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["evaluation"]["groups"] = ["camra"]
    with pytest.raises(InputError, match=r"^evaluation\.groups: .*photos has no columns"):
        preflight(parse_config(settings, "test"))
    table = tmp_path / "photos.csv"
    table.write_text("uri,camera\nphotos/disc/photo-0000.png,Alpha\n")
    settings["data"]["uri"] = str(table)
    with pytest.raises(InputError, match=r"no column 'camra'; its columns are uri, camera\."):
        preflight(parse_config(settings, "test"))
