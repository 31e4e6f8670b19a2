import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.config.load import parse_config
from flows.reporting.base import reporting_to
from flows.stages.pipeline import Pipeline
from flows.stages.preflight import preflight
from tests.flows.cli.test_bad_input import tintem
from tests.runs import Notes
from tintem_core.errors import InputError
from tintem_core.export.formats import DEFAULT, FORMATS
from tintem_pixels.verify import check


@pytest.fixture
def settings(settings: dict[str, Any], photo_folder: Callable[..., Path]) -> dict[str, Any]:
    other = photo_folder(7, name="other", first=100)
    settings["evaluation"]["ood"] = [{"name": "other", "uri": str(other)}]
    del settings["export"]["formats"]
    return settings


def test_a_folder_has_every_format_and_is_found_as_published(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    formats = [*DEFAULT, "ood", "triton"]
    settings["export"] |= {"reduced_loss": 1, "license": "apache-2.0", "formats": formats}
    done = Pipeline(parse_config(settings, "test"))
    record, folder = done.exported.record, Path(done.exported.location)
    assert set(record["formats"]) == set(formats) == set(FORMATS)
    assert record["left_out"] == {}
    assert json.loads((folder / "config.json").read_text())["architecture"] == "test_resnet"
    measured = record["reduced"]["int8"]["measures"]
    assert {"test/same_photo_at_1", "test/knn", "other/auroc"} < set(measured)
    own = done.evaluated.record["metrics"]["student/test/cosine_to_mapped"]
    assert measured["test/cosine_to_mapped"]["student"] == pytest.approx(own, abs=1e-6)
    assert 0.99 < record["reduced"]["int8"]["cosine"] < record["reduced"]["fp16"]["cosine"] <= 1
    assert all(record["loaders"][name]["smallest"] > 0.9 for name in ("timm", "transformers"))
    found = check(folder)
    assert found.problems == []
    assert len(found.lines) == 8

    card = (folder / "card.md").read_text()
    for told in ("fastembed", "openvino", "tritonserver", "tintem serve", "tintem embed"):
        assert told in card
    explained = done.evaluated.record["metrics"]["student/test/r2_to_mapped"]
    assert f"It explains {explained:.0%} of the variance" in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert (front["license"], front["library_name"]) == ("apache-2.0", "timm")
    assert front["pipeline_tag"] == "image-feature-extraction"
    # Its weights came from a file: nobody knows whose they are.
    assert "base_model" not in front
    assert "licence: unknown" in card
    known = record["ood"]["sets"]["other"]
    full = done.evaluated.record["metrics"]["student/other/auroc"]
    assert known["auroc_of_all"] == pytest.approx(full)
    assert f"| other, 7 | {known['auroc']:.3f} | {full:.3f} | 0.5 |" in card
    for form in record["formats"].values():
        assert f"`{form['file']}`" in card

    assert tintem("verify", str(folder), home=tmp_path).returncode == 0
    (folder / "mapping.onnx").write_bytes(b"other")
    told = tintem("verify", str(folder), home=tmp_path)
    assert told.returncode == 1
    assert told.stderr.startswith("mapping.onnx is not the file that was published")
    assert told.stdout.count("CPUExecutionProvider") == 7


def test_what_loses_too_much_is_not_published_and_its_numbers_are(
    settings: dict[str, Any],
) -> None:
    settings["export"] |= {"formats": ["onnx", "int8"], "reduced_cosine": 0.999999}
    notes = Notes()
    with reporting_to(notes):
        exported = Pipeline(parse_config(settings, "test")).exported
    assert not (Path(exported.location) / "onnx" / "model_quantized.onnx").exists()
    assert "mean cosine to the student is 0.99" in exported.record["left_out"]["int8"]
    assert exported.record["reduced"]["int8"]["measures"]
    assert any("model_quantized.onnx is left out: refused" in note for note in notes.notes)
    assert "`int8` is left out" in (Path(exported.location) / "card.md").read_text()


def test_a_student_of_a_teacher_that_forbids_it_is_refused_before_anything_starts(
    settings: dict[str, Any],
) -> None:
    settings["export"] |= {"license_policy": ["apache-2.0", "mit"], "formats": ["onnx"]}
    with pytest.raises(InputError, match="test_efficientnet is not known"):
        preflight(parse_config(settings, "test"))
    settings["export"]["teacher_license"] = "cc-by-nc-4.0"
    with pytest.raises(InputError, match=r"is cc-by-nc-4\.0, and export\.license_policy allows"):
        preflight(parse_config(settings, "test"))
    settings["export"]["teacher_license"] = "mit"
    preflight(parse_config(settings, "test"))
