"""What has been decided is not decided again because of a few photos, nor at every attempt."""

from pathlib import Path
from typing import Any

import pytest

from flows.retraining.run import RetrainingResult
from storage.registry import current_version, history, roll_back
from storage.root import open_root
from tests.flows.retraining.test_nightly import add, hold, line_of
from tests.flows.retraining.test_run import LINE, device_reads

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NEVER = {"metric": "student/test/pairwise_pearson", "minimum": 2.0}


def actions(settings: dict[str, Any], line: str = LINE) -> list[str]:
    return [entry.action for entry in history(open_root(settings["root"]), line)]


def students(settings: dict[str, Any]) -> list[str]:
    return open_root(settings["root"]).folders("students")


@pytest.fixture
def rolled_back(settings: dict[str, Any]) -> RetrainingResult:
    """48 photos promoted, 12 more promoted, and the second student rolled back; returns its end."""
    assert hold(settings).outcome == "promoted"
    add(settings, 12, 300)
    grown = hold(settings)
    assert grown.outcome == "promoted", grown.says
    roll_back(open_root(settings["root"]), LINE)
    return grown


def test_a_rollback_is_not_undone_by_one_more_photo(
    settings: dict[str, Any], rolled_back: RetrainingResult
) -> None:
    add(settings, 1, 400)
    ended = hold(settings)
    assert ended.outcome == "waiting", ended.says
    assert "the line has decided on 12 new photos before" in ended.says
    assert f"{line_of(rolled_back)['student']} was rolled back on " in ended.says
    assert "`tintem rollback CONFIG.yaml --to 2` takes it again" in ended.says
    line = line_of(ended)
    assert (line["news"]["known"], line["news"]["decided"], line["news"]["new"]) == (48, 12, 1)
    assert len(line["strangest"]) == 1
    assert actions(settings) == ["promoted", "promoted", "rolled back"]


def test_a_rollback_is_not_undone_by_a_photo_less(
    settings: dict[str, Any], rolled_back: RetrainingResult
) -> None:
    made = students(settings)
    (Path(settings["data"]["uri"]) / "disc" / "photo-0300.png").unlink()
    ended = hold(settings)
    assert ended.outcome == "kept"
    assert f"{line_of(rolled_back)['student']} was rolled back on " in ended.says
    assert students(settings) == made


@pytest.mark.usefixtures("rolled_back")
def test_after_a_rollback_enough_photos_that_nobody_decided_on_train_again(
    settings: dict[str, Any],
) -> None:
    add(settings, 12, 400)
    ended = hold(settings)
    assert ended.outcome == "promoted", ended.says
    news = line_of(ended)["news"]
    assert news["new"] == 12
    assert news["growth"] < news["new_train"] / news["known_train"]


@pytest.mark.usefixtures("rolled_back")
def test_force_trains_whatever_was_decided(settings: dict[str, Any]) -> None:
    add(settings, 1, 400)
    assert hold(settings, force=True).outcome == "promoted"


def test_a_closed_gate_is_not_asked_again_because_of_one_more_photo(
    settings: dict[str, Any],
) -> None:
    hold(settings)
    add(settings, 12, 300)
    kept = hold(settings, gates=[NEVER])
    assert kept.outcome == "kept"
    made = students(settings)
    add(settings, 1, 400)
    ended = hold(settings, gates=[NEVER])
    assert ended.outcome == "waiting", ended.says
    said = f"the line has decided on 12 new photos before: night {kept.night} kept what is in force"
    assert said in ended.says
    assert students(settings) == made
    # With another gate, it may open.
    assert hold(settings).outcome == "promoted"


def test_a_first_student_that_did_not_pass_is_not_made_again_because_of_one_more_photo(
    settings: dict[str, Any],
) -> None:
    assert hold(settings, gates=[NEVER]).outcome == "kept"
    made = students(settings)
    add(settings, 1, 300)
    assert hold(settings, gates=[NEVER]).outcome == "waiting"
    assert students(settings) == made
    add(settings, 12, 400)
    assert hold(settings, gates=[NEVER]).outcome == "kept"
    assert len(students(settings)) == len(made) + 1


def test_a_night_that_failed_for_one_student_decides_on_the_others_as_before(
    settings: dict[str, Any],
) -> None:
    both = [{"name": "good"}, {"name": "lost", "student.weights": "/no/such/file.safetensors"}]
    for _ in range(2):
        ended = hold(settings, students=both, gates=[NEVER])
        assert ended.outcome == "failed"
        assert line_of(ended, "good-shapes")["outcome"] == "kept"
        assert "did not pass" in line_of(ended, "good-shapes")["why"]


def test_a_forced_night_tried_again_trains_none_further_that_it_has_promoted(
    settings: dict[str, Any],
) -> None:
    good = {"name": "good"}
    lost = {"name": "lost", "student.weights": "/no/such/file.safetensors"}
    hold(settings, students=[good])
    for _ in range(3):
        ended = hold(settings, force=True, warm_start=True, students=[good, lost])
        assert ended.outcome == "failed"
    assert line_of(ended, "good-shapes")["outcome"] == "nothing new"
    assert actions(settings, "good-shapes") == ["promoted", "promoted"]

    mended = hold(settings, force=True, warm_start=True, students=[good, {"name": "lost"}])
    assert mended.outcome == "promoted"
    assert current_version(open_root(settings["root"]), "lost-shapes") is not None
    assert actions(settings, "good-shapes") == ["promoted", "promoted"]
    # That night is over; another one that is forced is another one.
    hold(settings, force=True, warm_start=True, students=[good, {"name": "lost"}])
    assert actions(settings, "good-shapes") == ["promoted", "promoted", "promoted"]


def test_a_model_whose_file_is_gone_is_published_again_by_the_same_run(
    settings: dict[str, Any],
) -> None:
    hold(settings)
    root = open_root(settings["root"])
    latest = current_version(root, LINE)
    assert latest is not None
    root.delete(latest.model.onnx)
    assert "the same once more" in hold(settings, force=True).says
    assert device_reads(root) == latest.model.student
