"""An object store that fails in a share of its answers: the work is done, with the right bytes."""

from pathlib import Path
from typing import Any

import pytest

from flows.config.load import load_config
from flows.stages.pipeline import Pipeline
from storage.cache import FeatureCache
from storage.root import Root, open_root
from tests.faults import FAULTS, FaultyProxy
from tests.runs import write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("seed", [0, 1])
def test_an_extraction_through_a_store_that_fails_has_the_right_bytes(
    s3_url: str,
    s3_endpoint: str,
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    local = Pipeline(load_config(write_config(tmp_path, settings)))
    wanted = shards(local.root, local.extracted.training_cache)
    proxy = FaultyProxy(s3_endpoint.removeprefix("http://"), share=0.15, seed=seed)
    with proxy.serving() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        remote = {**settings, "root": f"{s3_url}/faulty-{seed}"}
        there = Pipeline(load_config(write_config(tmp_path, remote, "remote.yaml")))
        cache = there.extracted.training_cache
        assert there.mapped
    assert set(proxy.failed) == set(FAULTS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    root = open_root(remote["root"])
    assert shards(root, cache) == wanted
    assert FeatureCache.open(root, cache).verify() == []
    # Nobody is left who seems to work on it.
    assert root.list("leases") == []


def shards(root: Root, cache: str) -> dict[str, bytes]:
    paths = root.list(f"caches/{cache}/global/c")
    return {path: root.read(path) for path in paths}
