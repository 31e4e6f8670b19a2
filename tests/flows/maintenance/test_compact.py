"""Caches that many small additions have cut up, and shards that wait for photos that are gone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.maintenance.compact import compact
from flows.maintenance.status import cache_stats, collect, hints
from flows.stages.cache_requests import requested_caches
from flows.stages.extract import ensure
from flows.stages.models import load_teacher
from flows.stages.pipeline import Pipeline
from storage.cache import FeatureCache
from storage.images import Manifest
from storage.root import open_root
from tests.flows.maintenance.command import Tintem
from tests.runs import write_config
from tintem_core.errors import InputError


@pytest.fixture
def cut_up(settings: dict[str, Any], tmp_path: Path, photo_folder: Any) -> Pipeline:
    """The evaluation views of 48 photos in one shard, and of 6 more in 3."""
    settings["cache"]["rows_per_shard"] = 64
    config = load_config(write_config(tmp_path, settings))
    teacher = load_teacher(config.teacher, "cpu")
    for first in (1000, 1002, 1004):
        pipeline = Pipeline(config)
        ensure(config, pipeline.root, requested_caches(config, teacher)[1], pipeline.indexed)
        photo_folder(2, classes=("disc", "plain"), first=first)
    last = Pipeline(config)
    assert last.extracted
    return last


def values(pipeline: Pipeline) -> Any:
    cache = FeatureCache.open(pipeline.root, pipeline.extracted.evaluation_caches["shapes"])
    return cache.reader(pipeline.indexed.data.keys()).all(0)


@pytest.fixture
def tintem(tintem: Tintem) -> Any:
    def run(*arguments: str) -> tuple[int, str]:
        return tintem(*arguments)[:2]

    return run


def test_the_command_merges_shards_and_nothing_is_computed_again(
    cut_up: Pipeline, tmp_path: Path, tintem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.cache.compaction._WORTH_A_WORD", 2)
    before = values(cut_up)
    cache = cut_up.extracted.evaluation_caches["shapes"]
    (hint,) = hints(collect(cut_up.root.url))
    assert hint.startswith(f"{cache} is cut into 4 shards where 2 would do: `tintem compact ")
    (command,) = (part for part in hint.split("`") if part.startswith("tintem compact"))

    code, printed = tintem(*command.split()[1:])
    assert code == 0
    assert f"{cache}: 4 shards became 2, " in printed
    assert hints(collect(cut_up.root.url)) == []
    np.testing.assert_array_equal(values(cut_up), before)
    again = Pipeline(cut_up.config)
    assert again.extracted.reused
    assert FeatureCache.open(again.root, cache).verify() == []
    code, printed = tintem("compact", str(tmp_path / "run.yaml"))
    assert printed.count("nothing to merge") == 2
    assert not (tmp_path / "root" / "leases").exists() or not list(
        (tmp_path / "root" / "leases").rglob("*.json")
    )


def test_embeddings_of_photos_that_are_gone_are_left_behind_when_asked(cut_up: Pipeline) -> None:
    photos = sorted(Path(cut_up.config.data.uri).rglob("photo-10*.png"))
    for photo in photos[:4]:
        photo.unlink()
    again = Pipeline(cut_up.config)
    assert again.indexed
    cache = FeatureCache.open(again.root, cut_up.extracted.evaluation_caches["shapes"])
    assert cache.stats()["rows"] == 54
    done = compact(again.config.root, cache.id, drop_removed=True)
    assert [(each.id, each.shards_before, each.shards_after) for each in done] == [(cache.id, 4, 2)]
    assert cache.stats()["rows"] == 50
    assert again.extracted.reused


def test_what_waits_for_photos_that_are_gone_is_not_pending(
    config: RunConfig, tintem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(config)
    write = FeatureCache.write_shard

    def die(self: FeatureCache, task: Any, arrays: Any) -> None:
        if task.shard:
            raise KeyboardInterrupt
        write(self, task, arrays)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FeatureCache, "write_shard", die)
        assert pipeline.extracted
    (views,) = (c for c in pipeline.root.folders("caches") if "light" in c)
    cache = FeatureCache.open(pipeline.root, views)
    planned = cache.stats()
    assert planned["shards"] == 1
    assert planned["pending"] > 1
    table = pipeline.indexed.data.manifest.table
    gone = cache.missing(pipeline.indexed.data.keys("train"))
    for uri in table.filter(table["key"].is_in(gone))["uri"]:
        (Path(config.data.uri) / uri).unlink()
    again = Pipeline(config)
    with pytest.raises(InputError, match="at least 16 are needed"):
        assert again.indexed
    assert cache.stats()["pending"] == planned["pending"]
    assert Manifest.latest(again.root, "shapes") is not None
    assert cache_stats(again.root, cache)["pending"] == 0
    code, printed = tintem("status", config.root, "--json")
    assert code == 0
    (shown,) = (thing for thing in json.loads(printed)["caches"] if thing["id"] == views)
    assert (shown["progress"], shown["metrics"]["shards"]) == (1, 1)


def test_an_empty_root_says_what_fills_it(tmp_path: Path, tintem: Any) -> None:
    code, printed = tintem("status", str(tmp_path))
    assert code == 0
    assert "nothing is here yet: `tintem run CONFIG.yaml` fills it" in printed
    assert open_root(tmp_path).list() == []
