"""Who computes shards: this process, unless somebody has offered to have it done by others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flows.config import RunConfig
    from flows.stages.datasets import Dataset
    from flows.stages.wanted import Wanted
    from storage.cache import ShardTask

# Given to others: the run, the cache, its dataset, the shards, and what reports call them. They
# end in :func:`flows.stages.extract.compute_shards`.
Spread = Callable[["RunConfig", "Wanted", "Dataset", "list[ShardTask]", str], None]
_CURRENT: ContextVar[Spread | None] = ContextVar("spread", default=None)


def spread() -> Spread | None:
    """Return what has shards computed by others; None: nobody offered to."""
    return _CURRENT.get()


@contextmanager
def spread_by(others: Spread) -> Iterator[None]:
    """Have shards computed by others inside the block."""
    token = _CURRENT.set(others)
    try:
        yield
    finally:
        _CURRENT.reset(token)
