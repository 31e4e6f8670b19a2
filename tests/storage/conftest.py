"""A small cache with known values, and images on disk."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from storage.cache import FeatureCache
from storage.root import Root, open_root
from storage.spec import CacheSpec, KindSpec

VIEWS = 2
SPEC = CacheSpec(
    slug="tiny",
    content={"teacher": "a", "weights": "0123", "dataset": "d"},
    views=VIEWS,
    kinds={
        "global": KindSpec(shape=(16,), dims=("feature",), dtype="float16"),
        "tokens": KindSpec(shape=(3, 8), dims=("token", "feature"), dtype="int8"),
    },
)


@dataclass
class Sample:
    """A cache and the exact values that belong to each key."""

    cache: FeatureCache

    @staticmethod
    def values(key: str) -> dict[str, np.ndarray[Any, Any]]:
        """Per kind (V, 1, *shape), a function of the key alone."""
        rng = np.random.default_rng(int(key[:16], 16))
        return {
            name: rng.normal(size=(VIEWS, 1, *kind.shape)).astype(np.float16)
            for name, kind in SPEC.kinds.items()
        }

    @classmethod
    def stacked(cls, keys: tuple[str, ...] | list[str], kind: str) -> np.ndarray[Any, Any]:
        """(V, len(keys), *shape)."""
        return np.concatenate([cls.values(key)[kind] for key in keys], axis=1)

    def fill(self, keys: list[str]) -> list[int]:
        """Compute whatever is planned; returns the shard numbers."""
        tasks = self.cache.plan(keys)
        for task in tasks:
            arrays = {name: self.stacked(task.keys, name) for name in SPEC.kinds}
            self.cache.write_shard(task, arrays)
        return [task.shard for task in tasks]


def some_keys(count: int, start: int = 0) -> list[str]:
    """Keys as content_key makes them: 32 hex digits."""
    rng = np.random.default_rng(start)
    return [rng.bytes(16).hex() for _ in range(count)]


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return open_root(tmp_path / "root")


@pytest.fixture
def sample(root: Root) -> Sample:
    """An empty cache with 8 images per shard."""
    return Sample(FeatureCache.create_or_open(root, SPEC, rows_per_shard=8))


@pytest.fixture
def keys() -> Callable[..., list[str]]:
    return some_keys


@pytest.fixture
def spec() -> CacheSpec:
    return SPEC


def picture(seed: int, size: tuple[int, int] = (20, 12), form: str = "JPEG") -> bytes:
    """An encoded image that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def image() -> Callable[..., bytes]:
    return picture
