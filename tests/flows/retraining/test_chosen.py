"""A finished student that a person brings into force: what it is held against, what is recorded."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import parse_config
from flows.config.run import RunConfig
from flows.config.variants import variant
from flows.retraining.changes import settings_of
from flows.retraining.chosen import GateError, choose
from flows.retraining.run import RetrainingRun
from flows.stages.pipeline import Pipeline
from storage.registry import history
from storage.root import Root, open_root
from tests.flows.retraining.test_run import LINE, device_reads
from tests.photos import photo, write_photos
from tests.runs import small_run
from tintem_core.errors import InputError

METRIC = "student/test/pairwise_pearson"
OTHER = {"training.objective": "proteus", "training.evaluation_view": 0, "mapping.width": 24}


@dataclass(frozen=True)
class Finished:
    """A root with the run's own student and another, none of them in force."""

    settings: dict[str, Any]
    own: str
    other: str

    @property
    def root(self) -> Root:
        return open_root(self.settings["root"])

    def config(self, *gates: dict[str, Any]) -> RunConfig:
        return parse_config({**self.settings, "nightly": {"gates": list(gates)}}, "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("chosen")
    write_photos(folder / "photos", range(48))
    settings = small_run(folder, folder / "photos")
    config, students = parse_config(settings, "test"), []
    for changed in ({}, OTHER):
        run = Pipeline(variant(config, changed))
        assert run.exported
        students.append(run.trained.id)
    return Finished(settings, *students)


@pytest.fixture
def finished(made: Finished, tmp_path: Path) -> Finished:
    root = str(tmp_path / "root")
    shutil.copytree(made.settings["root"], root)
    return replace(made, settings={**made.settings, "root": root})


def test_the_runs_own_student_comes_into_force_once(finished: Finished) -> None:
    config = finished.config({"metric": METRIC, "minimum": -1.0, "may_fall": 0.0})
    chosen = choose(config)
    assert not chosen.is_in_force
    assert [verdict.passed for verdict in chosen.verdicts] == [True, None]
    entry = chosen.bring_into_force()
    assert device_reads(finished.root) == entry.model.student == finished.own
    assert (entry.why, entry.model.night) == ("chosen by hand", None)
    assert choose(config).is_in_force
    assert len(history(finished.root, LINE)) == 1


def test_a_closed_gate_refuses_by_how_much_and_a_reason_opens_it(finished: Finished) -> None:
    chosen = choose(finished.config({"metric": METRIC, "minimum": 2.0}), finished.own)
    value = chosen.pipeline.evaluated.record["metrics"][METRIC]
    short = rf"{METRIC} is {value:.4g}, wanted at least 2 \({2 - value:.2g} below\)"
    with pytest.raises(GateError, match=short):
        chosen.bring_into_force()
    assert history(finished.root, LINE) == []
    entry = chosen.bring_into_force("a trial on one device")
    assert entry.why.startswith("chosen by hand: a trial on one device (although ")
    assert f"wanted at least 2 ({2 - value:.2g} below)" in entry.why


def test_a_student_is_held_against_the_one_in_force_on_the_same_photos(finished: Finished) -> None:
    choose(finished.config()).bring_into_force()
    chosen = choose(finished.config({"metric": METRIC, "may_rise": 1e6}), finished.other)
    (verdict,) = chosen.verdicts
    own = choose(finished.config()).pipeline.evaluated.record["metrics"]
    assert verdict.latest == own[METRIC]
    assert verdict.value == chosen.pipeline.evaluated.record["metrics"][METRIC] != own[METRIC]
    assert chosen.bring_into_force().before == 1


def test_a_student_of_other_settings_is_described_by_its_own(finished: Finished) -> None:
    config = finished.config()
    made_with = variant(config, OTHER)
    chosen = choose(config, finished.other)
    entry = chosen.bring_into_force()
    assert entry.model.settings == settings_of(made_with)
    assert entry.model.mapping == Pipeline(made_with).mapped.id
    assert set(chosen.differing) == set(OTHER)


def test_a_night_goes_on_from_a_chosen_student(finished: Finished) -> None:
    choose(finished.config(), finished.other).bring_into_force()
    ended = RetrainingRun(finished.config()).run()
    assert ended.outcome == "nothing new"
    others = ", ".join(sorted(OTHER))
    assert f"other settings than then ({others})" in ended.says


@pytest.mark.parametrize("kind", ["evaluations", "exports"])
def test_what_is_missing_is_named_with_the_command_that_makes_it(
    finished: Finished, kind: str
) -> None:
    for id in finished.root.folders(kind):
        finished.root.delete(f"{kind}/{id}/record.json")
    for student in (None, finished.other):
        with pytest.raises(InputError, match=rf"holds no {kind}/test-resnet-.*`tintem run"):
            choose(finished.config(), student)


def test_a_student_that_is_not_finished_is_told_from_one_that_is_not_there(
    finished: Finished,
) -> None:
    finished.root.write("students/half/progress.json", b"{}")
    with pytest.raises(InputError, match=r"the student half is not finished below .*tintem run"):
        choose(finished.config(), "half")
    with pytest.raises(InputError, match=r"the student none is not there below .*`tintem status`"):
        choose(finished.config(), "none")


def test_a_student_of_other_photos_or_teachers_is_not_compared(
    finished: Finished, tmp_path: Path
) -> None:
    views = {**finished.settings, "views": {"count": 3}}
    with pytest.raises(InputError, match="learned from features of other teachers or views"):
        choose(parse_config(views, "test"), finished.own)
    photos = tmp_path / "photos"
    shutil.copytree(finished.settings["data"]["uri"], photos)
    for i in range(100, 110):
        photo(i).save(photos / "disc" / f"photo-{i:04d}.png")
    data = {**finished.settings["data"], "uri": str(photos)}
    grown = parse_config({**finished.settings, "data": data}, "test")
    assert len(Pipeline(grown).indexed.data.keys()) == 58
    with pytest.raises(InputError, match="learned from other photos than shapes had"):
        choose(grown, finished.own)


def test_of_several_lines_one_is_named(finished: Finished) -> None:
    students = [{"name": "one"}, {"name": "two", **OTHER}]
    config = parse_config({**finished.settings, "nightly": {"gates": [], "students": students}}, "")
    with pytest.raises(InputError, match="say with --line whose place it takes, one of one, two"):
        choose(config, finished.own)
    with pytest.raises(InputError, match=r"no student 'three': its students are one, two"):
        choose(config, finished.own, "three")
    assert choose(config, None, "two").bring_into_force().model.student == finished.other
    assert device_reads(finished.root, "two-shapes") == finished.other
