"""What is of no use goes; what is in force, configured or worked on stays, also after a kill."""

import contextlib
import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import load_config, parse_config
from flows.maintenance import leftovers
from flows.maintenance.gc import Collected, collect_garbage
from flows.retraining.run import RetrainingRun
from flows.stages.pipeline import Pipeline
from storage.cache import FeatureCache
from storage.errors import MissingObjectError
from storage.images import Manifest
from storage.lease import hold
from storage.registry import history, roll_back
from storage.root import Root, open_root
from storage.root.local import LocalRoot
from tests.flows.maintenance.command import Tintem
from tests.photos import photo, write_photos
from tests.runs import small_run, write_config
from tintem_core.errors import InputError

LINE = "test-resnet-shapes"


class Place:
    """A root with the results of two configs that share their features."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        longer = copy.deepcopy(settings)
        longer["training"]["epochs"] = 4
        longer["mapping"]["steps"] = 10
        self.first = write_config(folder, settings, "first.yaml")
        self.second = write_config(folder, longer, "second.yaml")

    @property
    def root(self) -> Root:
        return open_root(self.settings["root"])

    def run(self, config: Path) -> Pipeline:
        pipeline = Pipeline(load_config(config))
        assert pipeline.exported
        return pipeline

    def files(self) -> dict[str, bytes]:
        return {path: self.root.read(path) for path in self.root.list()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("gc")
    write_photos(folder / "photos", range(48))
    place = Place(folder, small_run(folder, folder / "photos"))
    place.run(place.first)
    return place


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Place:
    """A copy, to be changed."""
    shutil.copytree(made.settings["root"], tmp_path / "root")
    return Place(tmp_path, {**made.settings, "root": str(tmp_path / "root")})


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every file look old."""
    monkeypatch.setattr(leftovers, "_UNNAMED_SECONDS", 0.0)


def gc(*targets: Path | str, **options: Any) -> Collected:
    return collect_garbage([str(target) for target in targets], **{"older_than_days": 0} | options)


def names(found: Collected) -> dict[str, list[str]]:
    by_kind: dict[str, list[str]] = {}
    for thing in found.things:
        by_kind.setdefault(thing.kind, []).append(thing.name)
    return {kind: sorted(found) for kind, found in by_kind.items()}


def killed_claim(root: Root, name: str) -> None:
    with hold(root, "example"):
        claim = json.loads(root.read(root.list("leases")[0]))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    root.write(f"leases/{name}.000001.json", json.dumps({**claim, "pid": gone.pid}).encode())


def leave_everything_that_can_be_left(root: Root) -> dict[str, list[str]]:
    """Leave what kills leave; return it by kind."""
    student, cache = root.folders("students")[0], root.folders("caches")[0]
    (manifest,) = (p[10:-5] for p in root.list("manifests") if p.endswith(".json"))
    root.write(f"students/{student}/checkpoints/step-000000012-00c0ffee.pt", b"weights")
    root.write(f"students/{student}/progress.json", b'{"step": 12, "total": 12}')
    root.write("mappings/cosine-32-shapes-0123456789/mapping.safetensors", b"weights")
    root.write("nights/shapes-0123456789/report.html", b"page")
    root.write(f"caches/{cache}/global/c/0/77/0", b"values")
    root.write(f"caches/{cache}/commits/00000077.json", b"{}")
    root.write(f"caches/{cache}/rows/000009-0123456789ab.parquet", b"rows")
    root.write(f"manifests/{manifest}.0123456789.parquet", b"table")
    root.write("manifests/shapes-0123456789.left-out.0123456789.parquet", b"table")
    killed_claim(root, f"students/{student}")
    found = {
        "lease": [f"leases/students/{student}"],
        "checkpoints": [f"students/{student}/checkpoints"],
        "half-written": ["mappings/cosine-32-shapes-0123456789", "nights/shapes-0123456789"],
        "shards": [f"caches/{cache}"],
        "manifest tables": sorted([f"manifests/{manifest}", "manifests/shapes-0123456789"]),
    }
    folder = root.path("students")
    if folder is not None:
        (folder / ".record.json.0123456789ab.part").write_bytes(b"half")
        found["part files"] = ["students"]
    return found


def test_of_what_configs_and_records_need_nothing_goes(place: Place) -> None:
    assert gc(place.root.url).things == ()
    assert gc(place.first, with_unused=True).things == ()


@pytest.mark.usefixtures("old")
def test_exactly_what_kills_have_left_goes(place: Place) -> None:
    before = place.files()
    left = leave_everything_that_can_be_left(place.root)
    with_left = place.files()
    found = gc(place.root.url)
    assert names(found) == left
    assert place.files() == with_left
    assert found.bytes > len(with_left["nights/shapes-0123456789/report.html"])

    removed = gc(place.root.url, remove=True)
    assert removed.things == found.things
    assert place.files() == before
    assert not list(Path(place.root.url).rglob("*.part"))
    assert gc(place.root.url).things == ()
    assert place.run(place.first).exported.reused


def test_what_a_live_writer_may_have_begun_this_minute_stays(place: Place) -> None:
    leave_everything_that_can_be_left(place.root)
    assert not {"part files", "manifest tables"} & names(gc(place.root.url)).keys()


def test_a_training_that_can_go_on_keeps_its_checkpoints(place: Place) -> None:
    student = place.run(place.first).trained.id
    place.root.write(f"students/{student}/checkpoints/step-000000012-00c0ffee.pt", b"weights")
    place.root.delete(f"students/{student}/record.json")
    assert gc(place.root.url).things == ()
    assert gc(place.first, with_unused=True).things == ()
    assert names(gc(place.second, with_unused=True))["student"] == [f"students/{student}"]


@pytest.mark.usefixtures("old")
def test_what_a_process_works_on_stays(place: Place) -> None:
    root = place.root
    leave_everything_that_can_be_left(root)
    root.delete("leases")
    student, cache = root.folders("students")[0], root.folders("caches")[0]
    worked_on = (f"students/{student}", f"caches/{cache}", "nights/shapes")
    with contextlib.ExitStack() as held:
        # A machine of a cluster holds a shard alone.
        for name in (worked_on[0], f"{worked_on[1]}/shard-3", worked_on[2]):
            held.enter_context(hold(root, name))
        found = gc(root.url, remove=True)
        assert {told.split(" works on ")[1].split(":")[0] for told in found.busy} == set(worked_on)
        assert names(found).keys() == {"half-written", "manifest tables", "part files"}
        assert gc(root.url).things == ()
    stayed = names(gc(root.url, remove=True))
    assert stayed == {
        "checkpoints": [f"students/{student}/checkpoints"],
        "shards": [f"caches/{cache}"],
        "half-written": ["nights/shapes-0123456789"],
    }


def test_unused_things_stay_while_any_process_works_below_the_root(place: Place) -> None:
    with hold(place.root, "evaluations/anything"):
        found = gc(place.first, with_unused=True, remove=True)
    assert found.things == ()
    assert "works on evaluations/anything" in found.busy[0]


@pytest.mark.slow
def test_unused_removes_what_only_another_config_made_and_that_can_be_made_again(
    place: Place,
) -> None:
    first, second = place.run(place.first), place.run(place.second)
    assert gc(place.first, place.second, with_unused=True).things == ()
    index = {**place.settings, "evaluation": {"resamples": 100, "index": second.trained.id}}
    asks = write_config(place.folder, index, "asks.yaml")
    assert not {"student", "mapping"} & names(gc(asks, with_unused=True)).keys()
    found = gc(place.first, with_unused=True, remove=True)
    gone = names(found)
    assert gone["student"] == [f"students/{second.trained.id}"]
    assert gone["mapping"] == [f"mappings/{second.mapped.id}"]
    assert gone["export"] == [f"exports/{second.exported.id}"]
    assert gone["evaluation"] == [f"evaluations/{second.evaluated.id}"]
    assert all("student" in cache for cache in gone["cache"])
    assert second.trained.id not in " ".join(place.root.list())
    again = place.run(place.first)
    assert again.exported.id == first.exported.id
    assert again.exported.reused
    assert again.extracted.reused
    assert not place.run(place.second).exported.reused


def test_what_was_written_lately_is_not_taken_for_unused(place: Place) -> None:
    # Of another config, in which nothing of the first one is but the features.
    assert gc(place.second, with_unused=True, older_than_days=1).things == ()
    assert names(gc(place.second, with_unused=True)).keys() == {
        "student", "mapping", "evaluation", "export", "cache",
    }  # fmt: skip


def test_photos_of_another_day_are_listed_no_more_once_nothing_names_the_list(
    place: Place,
) -> None:
    manifest = Manifest.latest(place.root, "shapes")
    assert manifest is not None
    older = Manifest(manifest.source, manifest.table.head(40), manifest.quarantine,
                     manifest.duplicates)  # fmt: skip
    older.save(place.root)
    newest = Manifest(manifest.source, manifest.table.head(44), manifest.quarantine,
                      manifest.duplicates)  # fmt: skip
    newest.save(place.root)
    with hold(place.root, "students/any"):
        assert gc(place.root.url).things == ()
    assert gc(place.root.url, older_than_days=1).things == ()
    found = names(gc(place.root.url, remove=True))
    assert found == {"manifest": sorted([f"manifests/{older.id}", f"manifests/{manifest.id}"])}
    kept = Manifest.latest(place.root, "shapes")
    assert kept is not None
    assert kept.id == newest.id


class Dies:
    """The n-th removal of a file ends the process."""

    def __init__(self, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = after
        delete = LocalRoot.delete

        def one_by_one(root: LocalRoot, prefix: str) -> None:
            for path in sorted(root.list(prefix), key=hash):
                if not prefix.startswith("leases"):
                    if self.left == 0:
                        raise KeyboardInterrupt
                    self.left -= 1
                delete(root, path)
            delete(root, prefix)

        monkeypatch.setattr(LocalRoot, "delete", one_by_one)


@pytest.mark.slow
@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("after", [1, 8, 20, 40])
def test_killed_at_any_moment_the_same_command_finishes_and_runs_work(
    place: Place, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.run(place.second)
    leave_everything_that_can_be_left(place.root)
    with monkeypatch.context() as patch:
        Dies(after, patch)
        with pytest.raises(KeyboardInterrupt):
            gc(place.first, with_unused=True, remove=True)
    for cache in place.root.folders("caches"):
        with contextlib.suppress(MissingObjectError):
            FeatureCache.open(place.root, cache).stats()
    if after % 3:
        gc(place.first, with_unused=True, remove=True)
        assert gc(place.first, with_unused=True).things == ()
    assert place.run(place.first).exported.reused
    assert place.run(place.second)
    assert gc(place.first, place.second, with_unused=True, remove=True).busy == ()


@pytest.fixture
def nights(place: Place) -> list[str]:
    """Five nights, of which four brought another student into force; what they are called."""
    held = []
    for count in range(5):
        settings = copy.deepcopy(place.settings)
        settings["nightly"] = {"gates": []}
        if count == 2:
            gate = {"metric": "student/test/pairwise_pearson", "minimum": 2.0}
            settings["nightly"]["gates"] = [gate]
        settings["training"]["epochs"] = 1
        settings["training"]["seed"] = count
        result = RetrainingRun(parse_config(settings, "test"), force=True).run()
        assert result.outcome == ("kept" if count == 2 else "promoted")
        assert result.night is not None
        held.append(result.night)
    return held


@pytest.mark.slow
def test_of_nights_the_last_stay_and_what_a_rollback_returns_to(
    place: Place, nights: list[str]
) -> None:
    root, versions = place.root, history(place.root, LINE)
    assert names(gc(root.url, keep=2)).get("night") == sorted(f"nights/{id}" for id in nights[:3])
    assert "night" not in names(gc(root.url, keep=5))

    found = names(gc(place.first, with_unused=True, keep=1, remove=True))
    assert sorted(found["night"]) == sorted(f"nights/{id}" for id in nights[:4])
    students = {version.number: f"students/{version.model.student}" for version in versions}
    assert {students[1], students[2]} <= set(found["student"])
    assert not {students[3], students[4]} & set(found["student"])
    assert roll_back(root, LINE).model == versions[2].model
    settings = {**place.settings, "nightly": {"gates": []}}
    assert RetrainingRun(parse_config(settings, "test")).run().outcome == "nothing new"
    assert history(root, LINE)[:4] == versions


@pytest.mark.slow
def test_a_night_that_turned_down_what_would_come_again_is_remembered(place: Place) -> None:
    settings = {**place.settings, "nightly": {"gates": [], "growth": 0.1, "drift": None}}
    assert RetrainingRun(parse_config(settings, "test")).run().outcome == "promoted"
    gate = {"metric": "student/test/pairwise_pearson", "minimum": 2.0}
    settings["nightly"]["gates"] = [gate]
    folder = place.folder / "photos"
    shutil.copytree(Path(settings["data"]["uri"]), folder)
    settings["data"] = {**settings["data"], "uri": str(folder)}
    held = []
    for first, count in ((100, 8), (110, 8), (120, 1)):
        for i in range(first, first + count):
            photo(i).save(folder / "disc" / f"photo-{i:04d}.png")
        held.append(RetrainingRun(parse_config(settings, "test")).run())
    assert [night.outcome for night in held] == ["kept", "kept", "waiting"]
    # The one that brought into force what is, the last that kept it, and the newest of all.
    assert names(gc(place.root.url, keep=1, remove=True))["night"] == [f"nights/{held[0].night}"]
    photo(121).save(folder / "disc" / "photo-0121.png")
    again = RetrainingRun(parse_config(settings, "test")).run()
    assert again.outcome == "waiting"
    assert f"the line has decided on 16 new photos before: night {held[1].night}" in again.says


@pytest.fixture
def tintem(tintem: Tintem) -> Any:
    def run(*arguments: str) -> tuple[int, str]:
        code, printed, told = tintem(*arguments)
        return code, printed + told

    return run


@pytest.mark.usefixtures("old")
def test_the_command_looks_first_and_prints_the_one_that_removes(
    place: Place, tintem: Callable[..., tuple[int, str]]
) -> None:
    config = str(place.first)
    assert tintem("gc", config) == (0, f"{place.root.url}: nothing can go\n")
    left = leave_everything_that_can_be_left(place.root)
    code, said = tintem("gc", config, "--keep", "7")
    assert code == 0
    for kind, found in left.items():
        for name in found:
            assert sum(name in row.split() and kind in row for row in said.splitlines()) == 1
    *_, last = said.strip().splitlines()
    assert re.fullmatch(
        r"8 things, [0-9]+ bytes; nothing was removed. To remove: tintem gc .*", last
    )
    assert last.endswith(f"tintem gc {config} --keep 7 --yes")
    told = json.loads(tintem("gc", config, "--json")[1])
    assert told["removed"] is False
    assert sum(thing["bytes"] for thing in told["things"]) == told["bytes"]
    code, said = tintem(*last.split("tintem ")[1].split())
    assert code == 0
    assert said.strip().splitlines()[-1].startswith("removed: 8 things")
    assert tintem("gc", config) == (0, f"{place.root.url}: nothing can go\n")


def test_a_user_s_mistakes_get_a_sentence(
    place: Place, tmp_path: Path, tintem: Callable[..., tuple[int, str]]
) -> None:
    with pytest.raises(InputError, match="does not say what is still wanted: give the configs"):
        gc(place.root.url, with_unused=True)
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="give configs of one root"):
        gc(place.first, tmp_path / "other")
    code, said = tintem("gc", str(tmp_path / "nowhere"))
    assert code == 2
    assert "there is no folder" in said


@pytest.mark.usefixtures("old")
def test_a_bucket_is_cleaned_by_the_same_code(made: Place, s3_url: str, tmp_path: Path) -> None:
    root = open_root(s3_url)
    for path in made.root.list():
        root.write(path, made.root.read(path))
    before = {path: root.read(path) for path in root.list()}
    left = leave_everything_that_can_be_left(root)
    assert names(gc(s3_url, remove=True)) == left
    assert {path: root.read(path) for path in root.list()} == before
    there = Place(tmp_path, {**made.settings, "root": s3_url})
    assert gc(there.first, with_unused=True).things == ()
    assert Pipeline(load_config(there.first)).exported.reused
    gone = names(gc(there.second, with_unused=True, remove=True))
    assert len(gone["student"]) == len(gone["export"]) == 1
    assert root.folders("students") == root.folders("exports") == []
    assert len(root.folders("caches")) == 2
