"""Nights in a row, in plain Python: real photos on disk, a real teacher, real students."""

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.config.checks import metrics_of
from flows.config.load import parse_config
from flows.reporting.base import reporting_to
from flows.retraining.changes import changes_of
from flows.retraining.run import RetrainingResult, RetrainingRun
from flows.stages import extract, preflight
from flows.stages.pipeline import Pipeline
from storage.artifacts import read_file
from storage.cache import FeatureCache
from storage.errors import MissingObjectError
from storage.images import Manifest
from storage.registry import current_version, history, roll_back
from storage.root import Root, open_root
from tests.photos import write_photos
from tests.runs import Notes, small_run
from tintem_core.evaluation.cosine import unit_rows

LINE, EXCHANGED = "test-resnet-shapes", "test/same_photo_at_1"


@dataclass
class Nights:
    """A folder of photos that grows, and the nights held over it."""

    folder: Path
    settings: dict[str, Any]
    held: dict[str, tuple[RetrainingResult, Notes]] = field(default_factory=dict)

    @property
    def root(self) -> Root:
        return open_root(self.settings["root"])

    def add(self, count: int, first: int) -> None:
        write_photos(self.folder / "photos", range(first, first + count))

    def hold(self, name: str, *, force: bool = False, **nightly: Any) -> RetrainingResult:
        settings = copy.deepcopy(self.settings)
        settings["nightly"] = {"growth": 0.2, "drift": 0.5, "gates": []} | nightly
        notes = Notes()
        with reporting_to(notes):
            ended = RetrainingRun(parse_config(settings, "test"), force=force).run()
        self.held[name] = ended, notes
        return ended

    def work(self, name: str) -> dict[str, int]:
        return {k: v for k, v in self.held[name][1].work.items() if not k.startswith("Index")}

    def line(self, name: str) -> dict[str, Any]:
        record = self.held[name][0].record
        assert record is not None
        return record["lines"][LINE]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Nine nights; only two of them train a student."""
    folder = tmp_path_factory.mktemp("nights")
    nights = Nights(folder, small_run(folder, folder / "photos"))
    nights.add(90, 0)
    nights.hold("first")
    with no_teacher():
        nights.hold("quiet")
    nights.add(4, 100)
    nights.hold("few")
    with no_teacher():
        nights.hold("few again")
    nights.add(24, 200)
    nights.hold("too low", gates=[{"metric": "student/test/pairwise_pearson", "minimum": 2.0}])
    metric, limit = _change(nights.line("too low"))
    nights.hold("fell", gates=[{"metric": metric, limit: 0.0}])
    gates = [{"metric": metric, limit: 1e6}, {"metric": f"exchange/{EXCHANGED}", "minimum": 0.01}]
    nights.hold("grown", gates=gates)
    roll_back(nights.root, LINE)
    nights.hold("rolled back")
    roll_back(nights.root, LINE, to=2)
    for path in sorted((nights.folder / "photos" / "disc").iterdir())[:3]:
        path.unlink()
    nights.hold("some gone")
    return nights


@contextlib.contextmanager
def no_teacher() -> Iterator[None]:
    """Let whoever wants a teacher fail."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a teacher was loaded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract, "known_teacher", refuse)
        patch.setattr(preflight, "known_teacher", refuse)
        yield


def _change(line: dict[str, Any]) -> tuple[str, str]:
    """Name a metric in which the new student is really below the latest, and the limit to that.

    On a CPU where it is below in none, one in which it is above: a change is a change.
    """
    metrics, latest = line["metrics"], line["latest_metrics"]
    students = [name for name in metrics if name.startswith("student/")]
    changes = {name: metrics[name] - latest[name] for name in students}
    least, most = (extreme(changes, key=lambda name: changes[name]) for extreme in (min, max))
    return (least, "may_fall") if changes[least] < 0 else (most, "may_rise")


def device_reads(root: Root, line: str = LINE) -> str:
    """Do what a device does: the pointer, the model, its digest. Returns the student."""
    pointer = json.loads(root.read(f"latest/{line}.json"))
    data = root.read(pointer["model"]["onnx"])
    assert hashlib.sha256(data).hexdigest() == pointer["model"]["sha256"]
    return str(pointer["model"]["student"])


def test_the_first_night_trains_and_promotes(nights: Nights) -> None:
    ended, _ = nights.held["first"]
    assert ended.outcome == "promoted"
    assert "there is no latest yet" in ended.says
    assert "Train test_resnet" in nights.work("first")
    first = history(nights.root, LINE)[0]
    assert first.model.night == ended.night
    assert first.model.reference["train"] + first.model.reference["test"] == 90
    assert first.model.metrics == nights.line("first")["metrics"]


def test_a_night_with_nothing_new_does_nothing(nights: Nights) -> None:
    ended, _ = nights.held["quiet"]
    assert ended.outcome == "nothing new"
    assert ended.says == "nothing new: the latest knows all 90 photos of shapes"
    assert nights.work("quiet") == {}
    assert ended.night is None


def test_a_few_new_photos_are_embedded_and_scored_but_train_nothing(nights: Nights) -> None:
    ended, _ = nights.held["few"]
    assert ended.outcome == "waiting"
    new_train = nights.line("few")["news"]["new_train"]
    assert nights.work("few") == {
        "Extract shapes (light)": 2 * new_train,
        "Extract shapes (eval)": 4,
        "Score new photos": 4 + history(nights.root, LINE)[0].model.reference["test"],
    }
    assert f"{new_train} new training photos, growth " in ended.says
    assert "of 20.0%; 0 of 4 new photos are strange (0%), drift starts at 50%" in ended.says
    assert nights.line("few")["model"] is None


def test_the_same_new_photos_are_decided_on_once(nights: Nights) -> None:
    ended, _ = nights.held["few again"]
    assert ended.outcome == "nothing new"
    assert f"nothing new since night {nights.held['few'][0].night}: test_resnet waits" in ended.says
    assert nights.work("few again") == {}


def test_growth_trains_again_with_the_mapping_kept(nights: Nights) -> None:
    line = nights.line("too low")
    assert line["news"]["new"] == 28
    assert any("growth" in reason for reason in line["trigger"]["reasons"])
    assert line["mapping"]["kept"]
    assert 0.9 < line["mapping"]["pearson_now"] <= 1
    assert "Fit mapping" not in nights.work("too low")


def test_a_gate_keeps_the_latest_and_says_why(nights: Nights) -> None:
    ended, _ = nights.held["too low"]
    assert ended.outcome == "kept"
    assert not ended.failures
    value = nights.line("too low")["metrics"]["student/test/pairwise_pearson"]
    assert f"student/test/pairwise_pearson is {value:.4g}, wanted at least 2" in ended.says
    assert nights.line("too low")["model"] is None


def test_a_fall_below_the_latest_on_the_same_photos_keeps_it(nights: Nights) -> None:
    ended, _ = nights.held["fell"]
    (gate,) = nights.line("fell")["gates"]
    assert ended.outcome == "kept"
    assert gate["passed"] is False
    way = "below" if "may fall" in gate["rule"] else "above"
    assert (gate["value"] < gate["latest"]) is (way == "below")
    assert f"{way} the latest's" in ended.says
    # Nothing was trained or measured again to hear other gates.
    assert not any(title.startswith(("Train", "Evaluate")) for title in nights.work("fell"))


def test_the_latest_is_measured_on_the_photos_of_tonight(nights: Nights) -> None:
    then, now = nights.line("first")["metrics"], nights.line("too low")["latest_metrics"]
    assert then.keys() == now.keys()
    assert then["student/test/cosine_to_mapped"] != now["student/test/cosine_to_mapped"]
    records = [
        json.loads(nights.root.read(path))
        for path in nights.root.list("evaluations")
        if path.endswith("record.json")
    ]
    photos = {(r["spec"]["student"], r["test_photos"]) for r in records}
    (_, old), (_, new) = ((e.model.student, e) for e in history(nights.root, LINE)[:2])
    tonight = new.model.reference["test"]
    assert (old.model.student, tonight) in photos
    assert (new.model.student, tonight) in photos


def test_an_open_gate_promotes(nights: Nights) -> None:
    ended, _ = nights.held["grown"]
    assert ended.outcome == "promoted"
    second = history(nights.root, LINE)[1]
    assert second.before == 1
    assert second.model.student == nights.line("grown")["student"]
    assert "growth" in second.why


def test_a_gate_asks_the_index_that_the_latest_has_filled(nights: Nights) -> None:
    line, metric = nights.line("grown"), f"exchange/{EXCHANGED}"
    gate = line["gates"][1]
    assert (gate["metric"], gate["passed"]) == (metric, True)
    assert gate["value"] == line["metrics"][metric] != line["metrics"][f"student/{EXCHANGED}"]
    assert metric not in nights.line("first")["metrics"]


def test_what_was_rolled_back_does_not_come_back_by_itself(nights: Nights) -> None:
    ended, _ = nights.held["rolled back"]
    rejected = history(nights.root, LINE)[1].model.student
    assert ended.outcome == "kept"
    assert f"{rejected} was rolled back on " in ended.says
    assert "`tintem rollback CONFIG.yaml --to 2` takes it again" in ended.says
    assert not any(title.startswith("Train") for title in nights.work("rolled back"))
    assert device_reads(nights.root) == rejected  # taken again by hand, afterwards


def test_photos_that_are_gone_train_nothing(nights: Nights) -> None:
    ended, _ = nights.held["some gone"]
    assert ended.outcome == "nothing new"
    assert ended.says.endswith("knows all 115 photos of shapes (3 more are gone)")


def test_the_metrics_that_gates_may_name_are_those_that_are_measured(nights: Nights) -> None:
    known = metrics_of(parse_config(nights.settings, "test"))
    assert set(known) == set(nights.line("first")["metrics"])


def test_a_night_leaves_scores_and_a_page_of_its_own(nights: Nights) -> None:
    night = nights.held["few"][0].night
    assert night is not None
    folder = Path(nights.root.url) / "nights" / night
    scores = pl.read_parquet(folder / "new_photos.parquet")
    assert scores.height == 4
    assert scores["score"].is_sorted()
    page = (folder / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 8
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in page.replace("http-equiv", "")
    for uri in scores["uri"]:
        assert uri.rpartition("/")[2] in page
    assert read_file(nights.root, "nights", night, "strangest.jpg")[:2] == b"\xff\xd8"


def test_the_scores_are_cosines_to_the_nearest_photo_learned_from(nights: Nights) -> None:
    night, first = nights.held["few"][0].night, history(nights.root, LINE)[0]
    assert night is not None
    known = Manifest.load(nights.root, first.model.reference["manifest"]).keys("train")
    cache = Pipeline(parse_config(nights.settings, "test")).extracted.evaluation_caches["shapes"]
    scores = pl.read_parquet(Path(nights.root.url) / "nights" / night / "new_photos.parquet")
    bank, new = (
        unit_rows(FeatureCache.open(nights.root, cache).reader(keys).all(view=0))
        for keys in (known, scores["key"].to_list())
    )
    cosines = new @ bank.T
    np.testing.assert_allclose(scores["score"], cosines.max(axis=1), atol=1e-3)
    assert scores["nearest"].to_list() == [known[row] for row in cosines.argmax(axis=1)]


def test_nothing_of_a_history_is_ever_deleted(nights: Nights) -> None:
    assert [entry.action for entry in history(nights.root, LINE)] == [
        "promoted", "promoted", "rolled back", "rolled back",
    ]  # fmt: skip
    current = current_version(nights.root, LINE)
    assert current is not None
    assert current.number == 4


def test_a_missing_list_of_known_photos_is_named_with_a_cure(
    nights: Nights, tmp_path: Path
) -> None:
    latest = current_version(nights.root, LINE)
    assert latest is not None
    data = Pipeline(parse_config(nights.settings, "test")).indexed.data
    with pytest.raises(MissingObjectError, match=r"holds no .*learned from: bring it back"):
        changes_of(open_root(tmp_path), latest, data)
