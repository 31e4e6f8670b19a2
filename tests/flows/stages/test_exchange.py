"""The index that another student filled: asked by an evaluation, a gate and a leaderboard."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import parse_config
from flows.config.run import RunConfig
from flows.config.variants import variant
from flows.experiments.leaderboard import leaderboard
from flows.reporting.base import reporting_to
from flows.retraining.chosen import GateError, choose
from flows.stages.cache_requests import student_cache_spec
from flows.stages.models import load_embedder
from flows.stages.pipeline import Pipeline
from flows.stages.stored_embeddings import stored_embeddings
from storage.errors import MissingObjectError
from storage.root import Root, open_root
from tests.photos import write_photos
from tests.runs import Notes, small_run
from tintem_core.evaluation.shared_space import shared_space

FIRST, OVERLAP = "exchange/test/same_photo_at_1", "exchange/test/shared_overlap_10"
SHORTER, ELSEWHERE = {"training.epochs": 1}, {"mapping.width": 24}


@dataclass(frozen=True)
class Three:
    """A root with two students of one space, and one of another."""

    settings: dict[str, Any]
    own: str
    shorter: str
    elsewhere: str

    @property
    def root(self) -> Root:
        return open_root(self.settings["root"])

    def config(self, *, index: str | None = None, **nightly: Any) -> RunConfig:
        evaluation = {**self.settings["evaluation"], "index": index}
        found = {**self.settings, "evaluation": evaluation}
        return parse_config(found | ({"nightly": nightly} if nightly else {}), "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Three:
    folder = tmp_path_factory.mktemp("exchange")
    write_photos(folder / "photos", range(60))
    settings = small_run(folder, folder / "photos")
    settings["data"]["test_share"] = 0.4
    settings.setdefault("evaluation", {})
    config, students = parse_config(settings, "test"), []
    for changed in ({}, SHORTER, ELSEWHERE):
        run = Pipeline(variant(config, changed))
        assert run.exported
        students.append(run.trained.id)
    return Three(settings, *students)


@pytest.fixture
def three(made: Three, tmp_path: Path) -> Three:
    root = str(tmp_path / "root")
    shutil.copytree(made.settings["root"], root)
    return replace(made, settings={**made.settings, "root": root})


def embedded(run: Pipeline) -> Any:
    spec = student_cache_spec(
        run.config, run.trained.id, run.mapped.record["spec"]["width"], run.indexed.data.name
    )
    (found,) = stored_embeddings(
        run.config,
        run.root,
        spec,
        lambda: load_embedder(run.config, run.root, run.mapped, run.trained),
        run.indexed.data,
        "test",
    )
    return found


def test_a_student_asks_the_index_of_another_one(three: Three) -> None:
    plain, run = Pipeline(three.config()), Pipeline(three.config(index=three.shorter))
    assert "index" not in plain.evaluated.record["spec"]
    assert FIRST not in plain.evaluated.record["metrics"]
    assert plain.evaluated.reused
    found = {name: value for name, value in run.evaluated.record["metrics"].items()
             if name.startswith("exchange/")}  # fmt: skip
    assert set(found) == {
        FIRST, OVERLAP, "exchange/test/same_photo_at_10", "exchange/test/shared_knn"
    }  # fmt: skip
    other = Pipeline(variant(three.config(), SHORTER))
    assert other.trained.id == three.shorter
    wanted = shared_space(embedded(run), embedded(other), embedded(run), seed=0, resamples=100)
    assert found[FIRST] == next(row.value for row in wanted if row.name == "same_photo_at_1")
    # Every other measure is as it was.
    assert found.items() | plain.evaluated.record["metrics"].items() == (
        run.evaluated.record["metrics"].items()
    )


def test_in_its_own_index_a_student_finds_every_photo(three: Three) -> None:
    metrics = Pipeline(three.config(index=three.own)).evaluated.record["metrics"]
    assert metrics[FIRST] == 1.0
    assert metrics[OVERLAP] > metrics["student/test/shared_overlap_10"]


def test_a_student_of_another_space_is_not_measured_and_it_is_said(three: Three) -> None:
    notes = Notes()
    with reporting_to(notes):
        record = Pipeline(three.config(index=three.elsewhere)).evaluated.record
    assert FIRST not in record["metrics"]
    said = f"not measured in the index of {three.elsewhere}: it was trained through another mapping"
    assert any(note.startswith(said) for note in notes.notes), notes.notes


def test_a_student_that_is_not_there_is_refused_in_a_sentence(three: Three) -> None:
    with pytest.raises(MissingObjectError, match="holds no students/typo, so no student can be"):
        Pipeline(three.config(index="typo")).evaluated  # noqa: B018


def test_a_leaderboard_ranks_by_one_index_and_leaves_the_other_ranks_alone(three: Three) -> None:
    config = three.config(index=three.own)
    for changed in ({}, SHORTER):
        assert Pipeline(variant(config, changed)).exported
    (by_index,) = leaderboard(three.root, FIRST).groups
    assert by_index.table["student"].to_list() == [three.own, three.shorter]
    assert by_index.table["value"][0] == 1.0 >= by_index.table["value"][1]
    others = leaderboard(three.root, "student/test/pairwise_pearson").groups
    assert sorted(len(group.table) for group in others) == [3]


def test_a_gate_asks_the_index_of_the_student_in_force(three: Three) -> None:
    gates = [{"metric": FIRST, "minimum": 0.01}]
    alone = choose(three.config(gates=gates), three.own)
    assert [(v.passed, v.why) for v in alone.verdicts] == [
        (None, "there is no latest to compare with")
    ]
    alone.bring_into_force()
    (measured,) = choose(three.config(gates=gates), three.shorter).verdicts
    assert (measured.passed, measured.latest) == (True, None)
    assert measured.value is not None
    wanted = Pipeline(variant(three.config(index=three.own), SHORTER)).evaluated.record["metrics"]
    assert measured.value == wanted[FIRST]
    with pytest.raises(GateError, match=r"wanted at least 1\.5"):
        choose(
            three.config(gates=[{"metric": FIRST, "minimum": 1.5}]), three.shorter
        ).bring_into_force()
    with pytest.raises(GateError, match="was not measured: the student shares no space"):
        choose(three.config(gates=gates), three.elsewhere).bring_into_force()
