"""A tiny cache with known values and the contract of a root, for the tests of any package.

Needs pytest.
"""

import functools
import io
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
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


def damaged(data: bytes, place: int, bit: int = 0) -> bytes:
    """The same bytes with one bit flipped."""
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


class RootTests:
    """What callers rely on, one test per promise; a subclass gives an empty ``root`` as fixture."""

    @pytest.fixture
    def filled(self, root: Root) -> Root:
        for path, data in {"a/b/one": b"1", "a/two": b"22", "ab": b"333"}.items():
            root.write(path, data)
        return root

    def test_a_new_root_is_empty(self, root: Root) -> None:
        assert (root.list(), root.folders()) == ([], [])
        assert not root.exists("a")

    def test_what_is_written_is_read(self, filled: Root) -> None:
        assert filled.read("a/b/one") == b"1"
        assert filled.read_range("ab", 1, 2) == b"33"
        assert filled.read_many(["ab", "nothing"]) == (b"333", None)

    def test_a_write_replaces_what_was_there(self, filled: Root) -> None:
        filled.write("a/two", b"new")
        assert filled.read("a/two") == b"new"

    def test_a_listing_holds_what_lies_below_a_prefix_in_order(self, filled: Root) -> None:
        assert filled.list() == ["a/b/one", "a/two", "ab"]
        assert filled.list("a") == ["a/b/one", "a/two"]
        assert filled.sizes("a/two") == {"a/two": 2}
        assert (filled.size("a"), filled.size()) == (3, 6)
        assert filled.facts("ab")["ab"].modified > 1e18
        assert (filled.folders(), filled.folders("a")) == (["a"], ["b"])

    def test_a_prefix_exists_where_something_lies_below_it(self, filled: Root) -> None:
        assert [filled.exists(path) for path in ("a", "a/two", "a/tw")] == [True, True, False]

    def test_the_first_of_two_creators_wins_and_may_ask_again(self, root: Root) -> None:
        assert root.create("c", b"first")
        assert not root.create("c", b"second")
        # Who does not hear that it has created something asks again.
        assert root.create("c", b"first")
        assert root.read("c") == b"first"

    def test_a_root_can_be_sent_to_another_process(self, filled: Root) -> None:
        assert in_another_process(filled.read, "ab") == b"333"

    def test_what_is_deleted_is_gone_and_nothing_else(self, filled: Root) -> None:
        filled.delete("a")
        filled.delete("never-there")
        assert open_root(filled.url).list() == ["ab"]

    def test_what_is_not_there_cannot_be_read(self, filled: Root) -> None:
        with pytest.raises(MissingObjectError):
            filled.read("zzz")
        for path, length in (("zzz", 1), ("ab", 9)):
            with pytest.raises(MissingObjectError):
                filled.read_range(path, 0, length)

    def test_no_path_leaves_the_root(self, root: Root) -> None:
        with pytest.raises(StorageInputError):
            root.read("../outside")
