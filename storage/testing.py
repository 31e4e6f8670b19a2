"""A tiny cache with known values and the contract of a root, for the tests of any package."""

import functools
import io
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from storage.cache import CacheSpec, FeatureCache, KindSpec
from storage.errors import MissingObjectError, StorageInputError
from storage.root import Root, open_root

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


@dataclass(frozen=True)
class Sample:
    """A cache of `SPEC` and the exact values that belong to each key."""

    cache: FeatureCache

    @staticmethod
    def values(key: str) -> dict[str, np.ndarray[Any, Any]]:
        """Per kind (V, 1, *shape) float16, a function of the key alone."""
        rng = np.random.default_rng(int(key[:16], 16))
        return {
            name: rng.normal(size=(VIEWS, 1, *kind.shape)).astype(np.float16)
            for name, kind in SPEC.kinds.items()
        }

    @classmethod
    def stacked(cls, keys: Sequence[str], kind: str) -> np.ndarray[Any, Any]:
        """(V, len(keys), *shape) float16."""
        return np.concatenate([cls.values(key)[kind] for key in keys], axis=1)

    def fill(self, keys: Sequence[str]) -> list[int]:
        """Compute whatever is planned; returns the shard numbers."""
        tasks = self.cache.plan(keys)
        for task in tasks:
            arrays = {name: self.stacked(task.keys, name) for name in SPEC.kinds}
            self.cache.write_shard(task, arrays)
        return [task.shard for task in tasks]


def some_keys(count: int, seed: int = 0) -> list[str]:
    """Keys as content_key makes them: 32 hex digits."""
    rng = np.random.default_rng(seed)
    return [rng.bytes(16).hex() for _ in range(count)]


def picture(seed: int, size: tuple[int, int] = (20, 12), form: str = "JPEG") -> bytes:
    """An encoded image that no other seed gives; ``size`` is (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def in_another_process(call: Callable[..., Any], *arguments: Any) -> Any:
    """Call something where nothing of this process is inherited, as on another machine."""
    there = _elsewhere()
    # First: what is sent may look at it while it is unpacked.
    there.submit(_adopt, dict(os.environ)).result()
    return there.submit(call, *arguments).result()


@functools.cache
def _elsewhere() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _adopt(environment: dict[str, str]) -> None:
    os.environ.update(environment)


def check_root(root: Root) -> None:
    """Everything that callers rely on, tried on an empty root; AssertionError where it differs."""
    _same(root.list(), [])
    _same(root.folders(), [])
    root.write("a/b/one", b"1")
    root.write("a/two", b"22")
    root.write("ab", b"333")
    _same(root.read("a/b/one"), b"1")
    _same(root.read_range("ab", 1, 2), b"33")
    _same(root.read_many(["ab", "nothing"]), (b"333", None))
    _same(root.list(), ["a/b/one", "a/two", "ab"])
    _same(root.list("a"), ["a/b/one", "a/two"])
    _same(root.sizes("a/two"), {"a/two": 2})
    _same(root.facts("ab")["ab"].modified > 1e18, True)
    _same((root.size("a"), root.size()), (3, 6))
    _same((root.folders(), root.folders("a")), (["a"], ["b"]))
    _same([root.exists(path) for path in ("a", "a/two", "a/tw")], [True, True, False])
    root.write("a/two", b"new")
    _same(root.read("a/two"), b"new")
    _same((root.create("c", b"first"), root.create("c", b"second")), (True, False))
    # Who does not hear that it has created something asks again.
    _same(root.create("c", b"first"), True)
    _same(in_another_process(root.read, "c"), b"first")
    root.delete("a")
    root.delete("never-there")
    _same(open_root(root.url).list(), ["ab", "c"])
    for path in ("a/two", "zzz"):
        _raises(MissingObjectError, root.read, path)
    _raises(MissingObjectError, root.read_range, "zzz", 0, 1)
    _raises(MissingObjectError, root.read_range, "ab", 0, 9)
    _raises(StorageInputError, root.read, "../outside")


def _same(found: object, wanted: object) -> None:
    if found != wanted:
        raise AssertionError(f"found {found!r} instead of {wanted!r}")


def _raises(kind: type[Exception], call: Any, *arguments: Any) -> None:
    try:
        call(*arguments)
    except kind:
        return
    raise AssertionError(f"{call.__name__}{arguments} does not raise {kind.__name__}")


def damaged(data: bytes, place: int, bit: int = 0) -> bytes:
    """The same bytes with one bit flipped."""
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
