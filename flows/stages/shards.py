"""The missing shards of a cache: computed here, or in groups by others."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.config.run import RunConfig
from flows.data.dataset import Dataset
from flows.data.embedding import embed_shards
from flows.data.latents import StoredLatents, open_latents
from flows.data.rendering import ViewSource, renderer
from flows.execution.base import Executor
from flows.failures import describe
from flows.reporting.base import reporter
from flows.stages.cache_checks import check_precision
from flows.stages.cache_requests import CacheRequest
from flows.stages.ensure import exclusive
from flows.stages.map import through_mapping
from flows.stages.models import load_teacher
from storage.cache import FeatureCache, ShardTask
from storage.keys import Column, as_series
from storage.root import Root, open_root
from tintem_core.errors import InputError, TintemError
from tintem_core.models.config import TeacherConfig


def source_of(config: RunConfig, dataset: Dataset, want: CacheRequest) -> ViewSource:
    """Return a renderer of the views that a cache holds."""
    return renderer(config, dataset, want.split, want.recipe)


def embed_here(
    config: RunConfig,
    root: Root,
    want: CacheRequest,
    dataset: Dataset,
    cache: FeatureCache,
    tasks: list[ShardTask],
    title: str,
) -> None:
    """Embed the images of some shards and store these, in this process."""
    source = source_of(config, dataset, want)
    through = None
    if want.mapping is not None:
        through = through_mapping(config, root, want.mapping)
    missing = sum(len(task.keys) for task in tasks) * want.spec.views
    with reporter().track(f"Extract {title}", missing, "views") as advance:
        teacher = load_teacher(want.teacher, config.runtime.device)
        embed_shards(
            cache,
            tasks,
            teacher,
            source,
            config.runtime.decode_threads,
            advance,
            lambda arrays: check_precision(want.spec, arrays, config.cache.stored_cosine, title),
            through,
        )


def import_here(
    config: RunConfig,
    want: CacheRequest,
    dataset: Dataset,
    cache: FeatureCache,
    tasks: list[ShardTask],
    title: str,
) -> None:
    """Store the embeddings that a file has of the images of some shards.

    Raises:
        InputError: if some of them are none that can be learned from; nothing is stored then.
    """
    latents = open_latents(want.teacher)
    rows = latents_rows(latents, dataset, [key for task in tasks for key in task.keys])
    latents.refuse_unusable(rows)
    with reporter().track(f"Import {title}", len(rows), "latents") as advance:
        done = 0
        for task in tasks:
            found = latents.read(rows[done : done + len(task.keys)])
            arrays = {"global": found[None]}
            if not done:
                check_precision(want.spec, arrays, config.cache.stored_cosine, title)
            cache.write_shard(task, arrays)
            done += len(task.keys)
            advance(len(task.keys))


def in_file_order(teacher: TeacherConfig, dataset: Dataset, split: str | None) -> Sequence[str]:
    """Return the keys of a split in the order of a file of latents, which is then read through."""
    keys = Column(dataset.manifest.keys(split)).series
    rows = latents_rows(open_latents(teacher), dataset, keys)
    return Column(keys.gather(np.argsort(rows, kind="stable")))


def latents_rows(
    latents: StoredLatents, dataset: Dataset, keys: Sequence[str] | pl.Series
) -> NDArray[np.int64]:
    """Return which row of a file of latents each of some photos has."""
    table = dataset.manifest.table
    wanted = pl.DataFrame({"key": as_series(keys)})
    uris = wanted.join(table.select("key", "uri"), on="key", how="left", maintain_order="left")
    places = latents.places(uris["key"], uris["uri"], dataset.manifest.source.uri)
    rows: NDArray[np.int64] = places.cast(pl.Int64).to_numpy()
    return rows


@dataclass(frozen=True)
class ShardGroup:
    """Some shards of a cache that was planned, to be computed in one go."""

    want: CacheRequest
    dataset: Dataset
    """Holds their images; it need not hold others."""
    tasks: list[ShardTask]


def compute_shards(config: RunConfig, group: ShardGroup, title: str) -> None:
    """Compute shards of a cache that was planned elsewhere, as far as they are not there."""
    want, tasks = group.want, group.tasks
    root = open_root(config.root)
    cache = FeatureCache.open(root, want.spec.id)
    with ExitStack() as held:
        # A shard may be given to two machines, when one seems dead and is not. In one order, so
        # that nobody waits for a shard while holding one that the other waits for.
        for shard in sorted(task.shard for task in tasks):
            held.enter_context(exclusive(root, f"caches/{want.spec.id}/shard-{shard}"))
        if missing := cache.plan([key for task in tasks for key in task.keys]):
            embed_here(config, root, want, group.dataset, cache, missing, title)


def compute_elsewhere(
    config: RunConfig,
    want: CacheRequest,
    dataset: Dataset,
    cache: FeatureCache,
    tasks: list[ShardTask],
    title: str,
    executor: Executor,
) -> None:
    """Have shards computed in groups by an executor.

    Raises:
        InputError: where that is what was wrong, or where the others see another root.
        TintemError: if some of them could not be computed; the others are stored.
    """
    numbered: dict[int, list[ShardTask]] = {}
    for each in tasks:
        numbered.setdefault(each.shard // executor.shards_per_item, []).append(each)
    parts = parts_of(dataset, numbered)
    groups = {
        _called(group, title): ShardGroup(want, parts[number], group)
        for number, group in numbered.items()
    }
    views = {
        name: sum(len(each.keys) for each in group.tasks) * want.spec.views
        for name, group in groups.items()
    }
    errors = []
    with reporter().track(f"Extract {title}", sum(views.values()), "views") as advance:
        for name, error in executor.map(config, compute_shards, groups):
            if error is None:
                advance(views[name])
            else:
                errors.append(error)
    for error in errors:
        if isinstance(error, InputError):
            raise error
    if errors:
        raise TintemError(
            f"{title}: {len(errors)} of {len(groups)} groups of shards could not be computed: "
            f"{describe(errors[0])} The others are stored: the same command computes what is "
            "missing."
        ) from errors[0]
    if cache.missing([key for task in tasks for key in task.keys]):
        raise InputError(
            f"{title}: shards were computed, but are not in {config.root} as this machine sees it: "
            "give a root that all machines of the cluster see, a shared folder or s3://."
        )


def _called(group: list[ShardTask], title: str) -> str:
    first, last = group[0].shard, group[-1].shard
    return f"{title}, shard {first}" if first == last else f"{title}, shards {first} to {last}"


def parts_of(dataset: Dataset, groups: dict[int, list[ShardTask]]) -> dict[int, Dataset]:
    """Return the images of each group, and no others: that much a task has to be sent."""
    group_of = pl.concat(
        pl.DataFrame({"key": pl.Series(each.keys, dtype=pl.String), "group": number})
        for number, group in groups.items()
        for each in group
    )
    manifest = dataset.manifest
    tables = manifest.table.join(group_of, on="key").partition_by(
        "group", as_dict=True, include_key=False
    )
    nothing = {
        name: getattr(manifest, name).clear() for name in ("quarantine", "duplicates", "left_out")
    }
    return {
        int(number): replace(dataset, manifest=replace(manifest, table=table, **nothing))
        for (number,), table in tables.items()
    }
