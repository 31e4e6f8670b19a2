"""Tokens stored through the mapping: what they hold, what they lose, and who knows of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest

from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.maintenance.status import collect
from flows.maintenance.verify import repair, verify
from flows.planning import disk, rates
from flows.planning.plan import plan
from flows.reporting.base import reporting_to
from flows.stages.map import apply, load_mapping
from flows.stages.pipeline import Pipeline
from storage.artifacts import read_file, read_record, write_artifact
from storage.cache import FeatureCache
from tests.flows.maintenance.test_verify import flip_a_byte
from tests.flows.stages.test_pipeline import configured
from tests.runs import Notes, write_config, write_teacher
from tests.system.test_resume import finish, kill_when, start
from tintem_core.errors import InputError

MAPPED = {"tokens": True, "keep_mapped": True, "rows_per_shard": 8}


@pytest.fixture
def mapped(settings: dict[str, Any]) -> dict[str, Any]:
    settings["cache"] = dict(MAPPED)
    settings["training"] |= {"local_weight": 1.0, "epochs": 2}
    return settings


def tokens_cache(pipeline: Pipeline) -> FeatureCache:
    """The cache of the training views' tokens; that of the evaluation view comes after it."""
    assert len(pipeline.all_caches.mapped_tokens) == 2
    return FeatureCache.open(pipeline.root, pipeline.all_caches.mapped_tokens[0])


def size(pipeline: Pipeline, cache_id: str, kind: str) -> int:
    return pipeline.root.size(f"caches/{cache_id}/{kind}/c")


def losses(pipeline: Pipeline) -> list[float]:
    folder = Path(pipeline.config.root) / "students" / pipeline.trained.id
    return pl.read_parquet(folder / "history.parquet")["loss"].to_list()


def test_a_student_that_learnt_from_tokens_gives_them_in_its_export(
    mapped: dict[str, Any],
) -> None:
    mapped["export"]["formats"] = ["onnx", "web"]
    done = Pipeline(configured(mapped))
    opened = onnxruntime.InferenceSession(Path(done.exported.location) / "onnx" / "model.onnx")
    assert [each.name for each in opened.get_outputs()] == ["image_embeds", "last_hidden_state"]
    pixels = np.zeros((2, 3, *opened.get_inputs()[0].shape[2:]), np.float32)
    embeds, tokens = opened.run(None, {"pixel_values": pixels})
    assert tokens.shape[::2] == embeds.shape


@pytest.mark.parametrize(
    ("dtype", "relative"), [("float32", 1e-5), ("float16", 2e-3), ("int8", 2e-2)]
)
def test_they_are_the_mapping_of_the_full_ones(
    mapped: dict[str, Any], dtype: str, relative: float
) -> None:
    config = configured(mapped, cache__dtype=dtype)
    pipeline, notes = Pipeline(config), Notes()
    with reporting_to(notes):
        cache = tokens_cache(pipeline)
    full = Pipeline(configured(mapped, cache__keep_mapped=False, cache__dtype="float32"))
    keys = pipeline.indexed.data.keys("train")
    wide = FeatureCache.open(full.root, full.extracted.training_cache).reader(keys, "tokens")
    assert list(cache.spec.kinds) == ["tokens"]
    assert cache.spec.id.startswith(
        pipeline.extracted.training_cache.rpartition("-")[0] + "-mapped-"
    )
    reader, mapping = cache.reader(keys, "tokens"), load_mapping(config, full.root, pipeline.mapped)
    assert reader.shape == (wide.shape[0], 32)
    for view in range(2):
        wanted = apply(mapping, wide.all(view))
        tolerance = relative * np.abs(wanted).max()
        np.testing.assert_allclose(reader.all(view), wanted, rtol=relative, atol=tolerance)

    assert any("fitted on global embeddings alone" in note for note in notes.notes)
    (said,) = (note for note in notes.notes if note.startswith("tokens stored 32 wide instead of"))
    record = json.loads(pipeline.root.read(f"caches/{cache.spec.id}/record.json"))
    kept = json.dumps(record)
    assert '"mapped_tokens"' in kept
    assert '"neighbour_overlap_10"' in kept
    assert "of 8 held-out photos" in said


def test_training_with_them_is_nearly_the_same_and_takes_less(mapped: dict[str, Any]) -> None:
    # A closed form is the same whether tokens were there to fit it on or not.
    mapped["mapping"] = {"width": 32, "objective": "svd"}
    narrow, full = (Pipeline(configured(mapped, cache__keep_mapped=k)) for k in (True, False))
    np.testing.assert_allclose(losses(narrow), losses(full), rtol=2e-3)
    assert narrow.trained.id != full.trained.id
    spec, (views, *others) = narrow.trained.record["spec"], narrow.all_caches.mapped_tokens
    assert spec["mapped_tokens"] == views
    assert spec["further_mapped_tokens"] == others
    assert narrow.evaluated.record["test_photos"] == full.evaluated.record["test_photos"]

    width = full.mapped.record["teacher_width"]
    share = size(narrow, tokens_cache(narrow).spec.id, "tokens") / size(
        full, full.extracted.training_cache, "tokens"
    )
    assert share == pytest.approx(32 / width, rel=0.05)


def test_their_ids_follow_from_the_mapping_and_are_stable(mapped: dict[str, Any]) -> None:
    first, notes = Pipeline(configured(mapped)), Notes()
    assert first.trained
    with reporting_to(notes):
        again = Pipeline(configured(mapped))
        assert again.all_caches.reused
        assert again.trained.reused
    assert again.all_caches.mapped_tokens == first.all_caches.mapped_tokens
    assert not any(note.startswith("tokens stored") for note in notes.notes)
    plain = Pipeline(configured(mapped, cache__tokens=False, cache__keep_mapped=False,
                                training__local_weight=0.0))  # fmt: skip
    assert plain.all_caches is plain.extracted
    assert plain.extracted.training_cache == first.extracted.training_cache
    assert plain.mapped.id == first.mapped.id
    other = Pipeline(configured(mapped, mapping__seed=1))
    assert other.extracted.training_cache == first.extracted.training_cache
    assert other.all_caches.mapped_tokens != first.all_caches.mapped_tokens


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cache__tokens": False, "training__local_weight": 0.0}, r"set cache\.tokens to true"),
        ({"mapping__fit": "joint"}, r"cache\.keep_mapped .* set mapping\.fit to once"),
        ({"training__objective": "proteus"}, r"set cache\.keep_mapped to false"),
        ({"other_teachers": [{"model": "test_vit"}]}, "maps the tokens of one teacher"),
    ],
)
def test_where_they_cannot_serve_they_are_refused(
    mapped: dict[str, Any], change: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        configured(mapped, **change)


def test_tokens_of_another_width_than_the_embedding_are_refused(mapped: dict[str, Any]) -> None:
    mapped["teacher"] |= {"model": "mobilenetv3_small_050", "weights": "pretrained"}
    from flows.stages.cache_requests import requested_tokens
    from tintem_core.models.backbone import build_backbone
    from tintem_core.models.teacher import Teacher

    config = configured(mapped)
    teacher = Teacher(config.teacher, build_backbone(config.teacher, pretrained=False))
    with pytest.raises(InputError, match="one mapping cannot serve both"):
        requested_tokens(config, teacher, "x")


def test_verify_repair_and_status_know_them(mapped: dict[str, Any], tmp_path: Path) -> None:
    path = write_config(tmp_path, mapped)
    pipeline = Pipeline(load_config(path))
    cache_id = tokens_cache(pipeline).spec.id
    verdicts = {verdict.id: verdict for verdict in verify(str(path))}
    assert len(verdicts) == 4
    truth = verdicts[cache_id].truth
    assert truth is not None
    assert truth.smallest > 0.99999
    assert cache_id in {thing["id"] for thing in collect(str(path))["caches"]}

    folder = Path(pipeline.config.root) / "caches" / cache_id / "tokens/c/0"
    shard = sorted(p for p in folder.rglob("*") if p.is_file())[0]
    sound = shard.read_bytes()
    flip_a_byte(shard)
    assert not {v.id: v for v in verify(str(path))}[cache_id].sound
    done = {each.id: each for each in repair(str(path))}[cache_id]
    assert (len(done.withdrawn), done.recomputed, done.missing) == (1, 1, 0)
    assert shard.read_bytes() == sound

    write_teacher(Path(mapped["teacher"]["weights"]), seed=1)
    (Path(pipeline.config.root) / "mappings" / pipeline.mapped.id / "record.json").unlink()
    with pytest.raises(InputError, match="holds no mapping"):
        from flows.stages.map import through_mapping

        through_mapping(pipeline.config, pipeline.root, pipeline.mapped.id)


def test_a_truth_test_of_them_finds_another_mapping(mapped: dict[str, Any], tmp_path: Path) -> None:
    path = write_config(tmp_path, mapped)
    pipeline = Pipeline(load_config(path))
    cache_id = tokens_cache(pipeline).spec.id
    other = Pipeline(configured(mapped, mapping__seed=1, mapping__objective="random-orthogonal"))
    replacement = read_file(pipeline.root, "mappings", other.mapped.id, "mapping.safetensors")
    record = read_record(pipeline.root, "mappings", pipeline.mapped.id)
    told = {name: value for name, value in record.items() if name not in ("kind", "id", "files")}
    files = {"mapping.safetensors": replacement}
    write_artifact(pipeline.root, "mappings", pipeline.mapped.id, files, told)
    verdict = {v.id: v for v in verify(str(path))}[cache_id]
    assert verdict.truth is not None
    assert not verdict.sound
    assert verdict.truth.worst.startswith("tokens view")

    folder = Path(pipeline.config.root) / "mappings" / pipeline.mapped.id
    flip_a_byte(folder / "mapping.safetensors")
    verdict = {v.id: v for v in verify(str(path))}[cache_id]
    assert not verdict.sound
    assert "mapping.safetensors differs from what was recorded" in verdict.problems[0].reason


def test_a_plan_counts_them(mapped: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "_SECONDS", 0.01)
    monkeypatch.setattr(disk, "_PIECE", 2**16)
    config: RunConfig = configured(mapped)
    before = plan(config)
    (chosen,) = (choice for choice in before.choices if choice.chosen)
    assert chosen.stored == "global + mapped tokens"
    assert chosen.bytes == before.bytes_needed
    pipeline = Pipeline(config)
    assert pipeline.trained
    assert chosen.bytes == pytest.approx(pipeline.root.size("caches"), rel=0.3)
    after = plan(config)
    train = len(pipeline.indexed.data.keys("train"))
    assert after.views == after.views_reused == 5 * train + 48
    assert after.bytes_needed == 0
    assert after.reused == ("mapping", "student")


@pytest.mark.slow
def test_their_extraction_killed_goes_on_where_it_was(
    mapped: dict[str, Any], tmp_path: Path
) -> None:
    mapped["cache"]["rows_per_shard"] = 2
    mapped["views"]["count"] = 8
    path, root = write_config(tmp_path, mapped), Path(mapped["root"])

    def commits() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in root.glob("caches/*-mapped-*/commits/*.json")}

    assert kill_when(start(path, "all_caches"), lambda: len(commits()) >= 3)
    before = commits()
    finish(path, "all_caches")
    after = commits()
    assert len(after) > len(before)
    assert {p: after[p] for p in before} == before
    pipeline = Pipeline(load_config(path))
    assert pipeline.all_caches.reused
    assert tokens_cache(pipeline).verify() == []
    record = json.loads(next(root.glob("caches/*-light-mapped-*/record.json")).read_text())
    assert "pairwise_pearson" in json.dumps(record)
