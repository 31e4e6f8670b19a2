"""Merge the shards of caches that many small additions have cut up."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from rich.filesize import decimal

from flows.maintenance.verify import targets
from flows.reporting.base import Advance, reporter
from flows.stages.ensure import exclusive
from storage.cache import Compaction, FeatureCache
from storage.errors import CacheFormatError, CorruptError, MissingObjectError
from storage.images import Manifest
from storage.root import Root


@dataclass(frozen=True)
class Compacted:
    """What a compaction did to one cache."""

    id: str
    shards_before: int
    shards_after: int
    moved_rows: int
    bytes_before: int
    bytes_after: int
    unreadable: str = ""
    """Why nothing was done, and what to do."""


def compact(
    target: str, cache_id: str | None = None, *, fullness: float = 0.5, drop_removed: bool = False
) -> list[Compacted]:
    """Merge part-filled shards; no image is embedded again.

    Args:
        target: a root (all of its caches), or a run's YAML file (the caches of the run).
        cache_id: this one only.
        fullness: shards in which a smaller share of the rows is in use are rewritten.
        drop_removed: leave behind, in these shards, the rows of images that are no longer in the
            dataset as it was indexed last.

    Raises:
        InputError: if there is no such root, config or cache.
    """
    root, _, wanted = targets(target, cache_id)
    done = []
    for each in wanted:
        try:
            cache = FeatureCache.open(root, each)
        except MissingObjectError:
            continue
        except (CorruptError, CacheFormatError) as error:
            done.append(Compacted(each, 0, 0, 0, 0, 0, str(error)))
            continue
        keep = _images(root, cache) if drop_removed else None
        with exclusive(root, f"caches/{each}"):
            before = root.size(cache.base)
            found = _compact(cache, fullness, keep)
        done.append(
            Compacted(
                each,
                found.shards_before,
                found.shards_after,
                found.moved_rows,
                before,
                root.size(cache.base),
            )
        )
    return done


def _compact(cache: FeatureCache, fullness: float, keep: pl.Series | None) -> Compaction:
    moved = 0
    with contextlib.ExitStack() as stack:
        advance: Advance | None = None

        def progress(now: int, total: int) -> None:
            nonlocal moved, advance
            if advance is None:
                # Only known now: most caches have nothing to merge, and nothing to be shown.
                title = f"Merge shards of {cache.id}"
                advance = stack.enter_context(reporter().track(title, total, "rows"))
            advance(now - moved)
            moved = now

        return cache.compact(fullness=fullness, keep=keep, progress=progress)


def compaction_sentences(compacted: Sequence[Compacted]) -> list[str]:
    """Return a sentence per cache."""
    return [_sentence(done) for done in compacted]


def _sentence(done: Compacted) -> str:
    if done.unreadable:
        return done.unreadable
    if done.shards_after == done.shards_before:
        return f"{done.id}: {done.shards_before:,} shards, nothing to merge"
    return (
        f"{done.id}: {done.shards_before:,} shards became {done.shards_after:,}, "
        f"{decimal(done.bytes_before)} became {decimal(done.bytes_after)}"
    )


def _images(root: Root, cache: FeatureCache) -> pl.Series | None:
    """Return the images that a cache's dataset holds, also those that a run leaves out for now."""
    manifest = Manifest.latest(root, cache.spec.content.get("dataset", ""))
    if manifest is None:
        return None
    return pl.concat([manifest.table["key"], manifest.left_out["key"]])
