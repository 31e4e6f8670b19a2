"""Damage is named, and exactly the damaged shards come back."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flows.cli import main
from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.data.rendering import view_source
from flows.maintenance.compact import compact
from flows.maintenance.status import collect
from flows.maintenance.told import findings, repair_sentences
from flows.maintenance.verify import repair, verify
from flows.reporting.base import reporting_to
from flows.stages.cache_checks import measure_truth, truth_test
from flows.stages.extract import extract
from flows.stages.pipeline import Pipeline
from storage.cache import FeatureCache
from storage.records import seal, unseal
from tests.flows.maintenance.command import Tintem
from tests.runs import Notes, write_config, write_teacher
from tintem_core.errors import InputError, VerificationError


@pytest.fixture
def extracted(config_file: Path, settings: dict[str, Any]) -> Pipeline:
    # Nearly every photo then has a flipped view, whichever are drawn.
    settings["views"]["recipe"] = {"flip": 0.9}
    config_file.write_text(yaml.safe_dump(settings))
    pipeline = Pipeline(load_config(config_file))
    assert pipeline.extracted
    return pipeline


def shards(pipeline: Pipeline) -> list[Path]:
    """The shard files of the training views, in order of their number."""
    folder = (
        Path(pipeline.config.root) / "caches" / pipeline.extracted.training_cache / "global/c/0"
    )
    return sorted((p for p in folder.glob("*/0")), key=lambda p: int(p.parent.name))


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def test_sound_caches_are_sound_and_hold_what_the_teacher_gives(
    extracted: Pipeline, config_file: Path
) -> None:
    verdicts = verify(str(config_file))
    assert [v.id for v in verdicts] == [
        extracted.extracted.training_cache,
        extracted.extracted.evaluation_caches["shapes"],
    ]
    for verdict in verdicts:
        assert verdict.sound
        assert verdict.truth is not None
        assert verdict.truth.views == 8
        assert 0.9999 < verdict.truth.smallest <= verdict.truth.mean
    assert verdicts[0].truth is not None
    assert verdicts[0].truth.flipped >= 3
    by_root = verify(extracted.config.root)
    assert {v.id for v in by_root} == {v.id for v in verdicts}
    assert all(v.sound and v.truth is None for v in by_root)


def test_repair_computes_exactly_the_damaged_shards_again(
    extracted: Pipeline, config_file: Path
) -> None:
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in shards(extracted)}
    flipped, truncated, missing, *_ = before
    flip_a_byte(flipped)
    truncated.write_bytes(before[truncated][0][:-7])
    missing.unlink()

    verdict = verify(str(config_file))[0]
    assert not verdict.sound
    assert {problem.shard for problem in verdict.problems} == {0, 1, 2}
    assert verdict.truth is None

    notes = Notes()
    with reporting_to(notes):
        done, untouched = repair(str(config_file))
    assert (done.withdrawn, done.recomputed, done.missing) == ((0, 1, 2), 3, 0)
    assert untouched.withdrawn == ()
    assert notes.work["Extract shapes (light)"] == 3 * 8 * 2
    for path, (data, written) in before.items():
        assert path.read_bytes() == data
        assert (path.stat().st_mtime_ns == written) == (path not in (flipped, truncated, missing))
    assert all(v.sound for v in verify(str(config_file)))


def test_without_a_config_repair_only_withdraws(extracted: Pipeline) -> None:
    flip_a_byte(shards(extracted)[1])
    (done,) = (d for d in repair(extracted.config.root) if d.withdrawn)
    assert (done.id, done.withdrawn, done.recomputed) == (
        extracted.extracted.training_cache,
        (1,),
        None,
    )
    again = Pipeline(extracted.config)
    cache = FeatureCache.open(again.root, again.extracted.training_cache)
    assert not again.extracted.reused
    assert cache.verify() == []


def test_after_a_repair_that_was_killed_the_next_one_tells_that_photos_are_missing(
    extracted: Pipeline, config_file: Path
) -> None:
    flip_a_byte(shards(extracted)[1])
    FeatureCache.open(extracted.root, extracted.extracted.training_cache).repair()
    told, untouched = repair_sentences(repair(str(config_file)))
    assert "no shard is damaged" in told
    assert told.endswith("; 8 photos are missing still: `tintem extract` adds them")
    assert untouched.endswith("no shard is damaged; metadata and row tables are in order")


def test_repair_leaves_new_photos_to_the_extraction(
    extracted: Pipeline, config_file: Path, photo_folder: Any
) -> None:
    photo_folder(10, classes=("disc", "plain"), first=100)
    flip_a_byte(shards(extracted)[0])
    notes = Notes()
    with reporting_to(notes):
        done = repair(str(config_file))[0]
    assert notes.work == {"Index shapes": 58, "Extract shapes (light)": 8 * 2}
    assert done.recomputed == 1
    assert done.missing > 0


@pytest.mark.parametrize("way", ["format", "damage"])
def test_a_cache_that_cannot_be_read_is_told_and_the_others_are_looked_after(
    extracted: Pipeline, way: str
) -> None:
    root, lost = extracted.root, extracted.extracted.evaluation_caches["shapes"]
    for name in ("record.json", "record-copy.json"):
        path = f"caches/{lost}/{name}"
        record = {**unseal(root.read(path), path), "format": 99}
        root.write(path, seal(record) if way == "format" else b"{")
    flip_a_byte(shards(extracted)[1])
    cure = "has format 99, this version reads 1" if way == "format" else "is damaged, and so is the"

    status = collect(root.url)
    assert [cure in cache["hint"] for cache in status["caches"]] == [True, False]
    verdicts = verify(root.url)
    assert [verdict.sound for verdict in verdicts] == [False, False]
    told = findings(verdicts, root.url)
    assert cure in told[0]
    assert "shard 1" in told[1]
    unread, mended = repair(root.url)
    assert cure in unread.unreadable
    assert mended.withdrawn == (1,)
    assert [cure in done.unreadable for done in compact(root.url)] == [True, False]


def test_one_cache_can_be_verified_alone_and_an_unknown_one_is_refused(
    extracted: Pipeline, config_file: Path
) -> None:
    (verdict,) = verify(str(config_file), extracted.extracted.evaluation_caches["shapes"])
    assert verdict.truth is not None
    with pytest.raises(InputError, match="holds no cache nothing"):
        verify(extracted.config.root, "nothing")


def test_a_cache_that_is_not_there_yet_is_no_damage(config_file: Path) -> None:
    Path(load_config(config_file).root).mkdir()
    assert [v.note for v in verify(str(config_file))] == ["not extracted yet"] * 2


def test_photos_that_are_gone_or_changed_are_told_and_the_others_are_tested(
    extracted: Pipeline, config_file: Path
) -> None:
    photos = sorted(Path(extracted.config.data.uri).rglob("*.png"))
    for photo in photos[:40]:
        photo.unlink()
    photos[40].write_bytes(photos[41].read_bytes())
    verdicts = verify(str(config_file))
    assert all(verdict.sound and verdict.truth is not None for verdict in verdicts)
    _, evaluation = verdicts
    assert evaluation.truth is not None
    assert evaluation.truth.views == 7
    assert evaluation.note == "41 of 48 photos drawn are gone or changed since they were indexed"


def test_without_photos_the_bytes_of_every_cache_are_verified_still(
    extracted: Pipeline,
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(extracted.config.data.uri)
    for photo in folder.rglob("*.png"):
        photo.write_bytes(b"another")
    for verdict in verify(str(config_file)):
        assert verdict.sound
        assert verdict.truth is None
        assert verdict.note.startswith("the teacher could not be asked again: ")
    shutil.rmtree(folder)
    flip_a_byte(shards(extracted)[1])
    damaged, sound = verify(str(config_file))
    assert [problem.shard for problem in damaged.problems] == [1]
    assert sound.note == (
        f"the teacher could not be asked again: There is no folder {folder}. "
        "Correct the source's uri."
    )
    monkeypatch.setattr(sys, "argv", ["tintem", "verify", str(config_file)])
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "asked again" in capsys.readouterr().out


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_truth_test_sees_every_kind_and_flipped_views(
    settings: dict[str, Any], tmp_path: Path, dtype: str, tokens: bool
) -> None:
    settings["cache"] |= {"dtype": dtype, "tokens": tokens}
    settings["views"]["recipe"] = {"flip": 1.0}
    config = load_config(write_config(tmp_path, settings))
    pipeline = Pipeline(config)
    cache = FeatureCache.open(pipeline.root, pipeline.extracted.training_cache)
    source = view_source(config, pipeline.indexed.data, "train")
    truth = measure_truth(config, cache, source)
    assert truth.flipped == truth.views == 8
    assert truth.smallest > (0.9995 if dtype == "int8" else 0.999999)


def test_a_training_stops_when_the_cache_no_longer_tells_the_truth(
    extracted: Pipeline, config: RunConfig
) -> None:
    cache = FeatureCache.open(extracted.root, extracted.extracted.training_cache)
    source = view_source(config, extracted.indexed.data, "train")
    truth_test(config, cache, source, seed=0)
    # As if the teacher's weights had changed unseen: another teacher under this cache's id.
    write_teacher(Path(config.teacher.weights), seed=1)
    os.utime(config.teacher.weights, ns=(0, 0))
    with pytest.raises(VerificationError, match=r"global view \d of .*png has cosine"):
        truth_test(config, cache, source, seed=0)


def test_embeddings_that_are_not_the_teachers_are_found_on_demand(config_file: Path) -> None:
    """Shards with sound checksums but another content, as a bug in a view would write them."""
    pipeline = Pipeline(load_config(config_file))
    write = FeatureCache.write_shard

    def wrong(self: FeatureCache, task: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        write(self, task, {kind: np.roll(rows, 1, axis=1) for kind, rows in arrays.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureCache, "write_shard", wrong)
        patch.setattr("flows.stages.shards.check_precision", lambda *_: None)
        extract(pipeline.config, pipeline.root, pipeline.indexed)
    verdict = verify(str(config_file))[0]
    assert not verdict.problems
    assert not verdict.sound


def test_the_commands_name_the_shard_and_the_cure(
    extracted: Pipeline,
    config_file: Path,
    tintem: Tintem,
) -> None:
    flip_a_byte(shards(extracted)[2])
    code, _, told = tintem("verify", str(config_file))
    assert code == 1
    assert "shard 2" in told
    assert f"tintem repair {config_file}" in told
    code, printed, _ = tintem("verify", str(config_file), "--json")
    assert code == 1
    found = {verdict["id"]: verdict["sound"] for verdict in json.loads(printed)}
    caches = extracted.extracted
    sound = dict.fromkeys([*caches.evaluation_caches.values(), "manifests"], True)
    assert found == {caches.training_cache: False, **sound}
    code, printed, _ = tintem("repair", str(config_file))
    assert code == 0
    assert "computed 1 of them again" in printed
    assert tintem("verify", extracted.config.root)[0] == 0
    assert tintem("verify", "/no/such/root")[0] == 2
