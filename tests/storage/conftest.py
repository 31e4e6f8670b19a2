"""A small cache with known values, and images on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.cache import CacheSpec, FeatureCache
from storage.root import Root, open_root
from storage.testing import SPEC, Sample, picture, some_keys
from tests.storage.hooked import HookedRoot


@pytest.fixture
def root(tmp_path: Path) -> HookedRoot:
    return HookedRoot(str(tmp_path / "root"))


@pytest.fixture
def sample(root: Root) -> Sample:
    """An empty cache with 8 images per shard."""
    return Sample(FeatureCache.create_or_open(root, SPEC, rows_per_shard=8))


@pytest.fixture
def remote(s3_url: str) -> Sample:
    """An empty cache in a bucket, with 8 images per shard."""
    return Sample(FeatureCache.create_or_open(open_root(s3_url), SPEC, rows_per_shard=8))


@pytest.fixture
def keys() -> Callable[..., list[str]]:
    return some_keys


@pytest.fixture
def spec() -> CacheSpec:
    return SPEC


@pytest.fixture
def image() -> Callable[..., bytes]:
    return picture
