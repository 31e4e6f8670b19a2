"""What a run stores, and what other ways to store it would take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from flows.config.run import RunConfig
from flows.stages.cache_requests import CacheRequest
from storage.cache import KindSpec
from storage.cache.footprint import footprint


@dataclass(frozen=True)
class Work:
    """A cache of the run: how many photos it is to hold, and how many it holds already."""

    want: CacheRequest
    photos: int
    done: int

    @property
    def views(self) -> int:
        return self.photos * self.want.spec.views

    @property
    def missing(self) -> int:
        return self.photos - self.done


@dataclass(frozen=True)
class Choice:
    """One way to store the features of the run."""

    stored: str
    dtype: str
    shards: int
    bytes: int
    objects: int
    chosen: bool


def choices_of(
    config: RunConfig, work: list[Work], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Choice, ...]:
    """Return every way to store what the teacher says.

    Args:
        work: the caches.
        shapes: of an image's embedding and tokens.
    """
    dtypes: list[Literal["float16", "int8", "float32"]] = ["float16", "int8"]
    if config.cache.dtype not in dtypes:
        dtypes.append(config.cache.dtype)
    found = []
    for tokens in (False, True) if "tokens" in shapes else (False,):
        for dtype in dtypes:
            sizes = []
            for w in work:
                kinds = {"global": KindSpec(shape=shapes["global"], dims=("feature",), dtype=dtype)}
                if tokens and w.want.source not in config.evaluation.ood:
                    dims = ("token", "feature")
                    kinds["tokens"] = KindSpec(shape=shapes["tokens"], dims=dims, dtype=dtype)
                rows = config.cache.rows_per_shard
                sizes.append(footprint(kinds, w.photos, w.want.spec.views, rows))
            found.append(
                Choice(
                    stored="global + tokens" if tokens else "global",
                    dtype=dtype,
                    shards=sum(size.shards for size in sizes),
                    bytes=sum(size.bytes for size in sizes),
                    objects=sum(size.objects for size in sizes),
                    chosen=not config.cache.keep_mapped
                    and (tokens, dtype) == (config.cache.tokens, config.cache.dtype),
                )
            )
    return tuple(found)


def mapped_choice(config: RunConfig, work: list[Work]) -> Choice:
    """Return the way of ``cache.keep_mapped``."""
    sizes = [
        footprint(w.want.spec.kinds, w.photos, w.want.spec.views, config.cache.rows_per_shard)
        for w in work
    ]
    return Choice(
        stored="global + mapped tokens",
        dtype=config.cache.dtype,
        shards=sum(size.shards for size in sizes),
        bytes=sum(size.bytes for size in sizes),
        objects=sum(size.objects for size in sizes),
        chosen=True,
    )
