"""Stage 2: teacher embeddings, once, into the feature cache."""

from collections.abc import Collection, Mapping
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from typing import Any

from flows.config import RunConfig
from flows.planning.disk import require_space
from flows.planning.scale import footprint, rows_per_shard
from flows.provenance import provenance
from flows.reporting import reporter
from flows.stages.alone import alone
from flows.stages.batches import ViewSource
from flows.stages.datasets import Dataset
from flows.stages.embed import embed_shards
from flows.stages.fit import through_mapping
from flows.stages.reading import run_root
from flows.stages.results import Extracted, Indexed, TeacherCaches
from flows.stages.spreading import spread
from flows.stages.stored import check_stored
from flows.stages.teacher import load_teacher
from flows.stages.wanted import Wanted, wanted_caches
from flows.status import fragmented
from storage.cache import FeatureCache, ShardTask
from storage.errors import StorageError
from storage.images import mark_changed
from storage.root import Root, open_root
from tintem_core.errors import InputError
from tintem_core.teachers import TeacherConfig
from tintem_core.views import EVAL, ViewRecipe


def extract(config: RunConfig, root: Root, indexed: Indexed) -> Extracted:
    """Make sure that every view of every image is in a cache; compute only what is missing."""
    views, evaluation, computed = _extract(config, root, indexed, config.teacher)
    others = []
    for other in config.other_teachers:
        other_views, other_evaluation, more = _extract(config, root, indexed, other.teacher())
        others.append(TeacherCaches(other.model, other.weight, other_views, other_evaluation))
        computed += more
    return Extracted(views, evaluation, reused=computed == 0, others=tuple(others))


def _extract(
    config: RunConfig, root: Root, indexed: Indexed, teacher: TeacherConfig
) -> tuple[str, dict[str, str], int]:
    """Return one teacher's caches: training views, evaluation by dataset, shards computed."""
    views, *evaluation = wanted_caches(config, load_teacher(teacher, config.runtime.device))
    computed = sum(ensure(config, root, want, indexed) for want in (views, *evaluation))
    return views.spec.id, {want.source.name: want.spec.id for want in evaluation}, computed


def recompute(
    config: RunConfig, root: Root, indexed: Indexed, want: Wanted, shards: Collection[int]
) -> int:
    """Compute some shards of a cache again, and no others; returns how many could be.

    A shard of which an image is no longer among the run's cannot: its other images get a new
    shard when the extraction runs the next time.
    """
    return ensure(config, root, want, indexed, shards)


def view_source(config: RunConfig, dataset: Dataset, split: str | None) -> ViewSource:
    """Return a renderer of the training views of a dataset's images."""
    return renderer(config, dataset, split, config.views.recipe)


def eval_source(config: RunConfig, dataset: Dataset, split: str | None) -> ViewSource:
    """Return a renderer of the evaluation view of a dataset's images."""
    return renderer(config, dataset, split, EVAL)


def source_of(config: RunConfig, dataset: Dataset, want: Wanted) -> ViewSource:
    """Return a renderer of the views that a cache holds."""
    return renderer(config, dataset, want.split, want.recipe)


def renderer(
    config: RunConfig, dataset: Dataset, split: str | None, recipe: ViewRecipe
) -> ViewSource:
    """Return a renderer of one kind of views of a dataset's images."""
    return ViewSource(
        dataset.reader,
        dataset.uris(split),
        dataset.keys(split),
        recipe,
        base_size=config.teacher.image_size,
        bits=dataset.manifest.source.bits,
        on_change=partial(_mark_changed, config, dataset.name),
    )


def _mark_changed(config: RunConfig, dataset: str, uri: str) -> None:
    """Have the next run look at a photo again, whose size and date tell no change."""
    # Where nothing may be written, the photo is still told.
    with suppress(StorageError):
        mark_changed(run_root(config), dataset, uri)


def ensure(
    config: RunConfig,
    root: Root,
    want: Wanted,
    indexed: Indexed,
    only: Collection[int] | None = None,
    beside: Mapping[str, Any] | None = None,
) -> int:
    """Compute the missing shards of one cache; return how many there were.

    Args:
        only: of these shards; None: of all.
        beside: what a new cache's provenance says besides.

    Raises:
        InputError: if the mapping that tokens go through is not there.
    """
    dataset = indexed.dataset(want.source.name)
    # In the order of the source: its files are then read from beginning to end.
    keys = dataset.manifest.keys(want.split)
    spec = want.spec
    cache = FeatureCache.create_or_open(
        root,
        spec,
        rows_per_shard=config.cache.rows_per_shard or rows_per_shard(spec, len(keys)),
        codec=config.cache.codec,
        provenance={**provenance(), **(beside or {})},
    )
    total = len(keys) * spec.views
    title = f"{dataset.name} ({want.recipe.name})"
    if want.teacher != config.teacher:
        title += f" for {want.teacher.model}"
    if want.mapping is not None:
        title += ", mapped tokens"
    if cache.layout.codec != config.cache.codec:
        reporter().note(
            f"{title}: the cache keeps the codec '{cache.layout.codec}' that it was made with; "
            f"for '{config.cache.codec}' delete {root.url}/{cache.base} and extract again"
        )
    is_whole = not cache.missing(keys)
    with nullcontext() if is_whole else alone(root, f"caches/{spec.id}"):
        # Not before: it gives out rows, which another run may be about to fill.
        planned = [] if is_whole else cache.plan(keys)
        tasks = [task for task in planned if only is None or task.shard in only]
        missing = sum(len(task.keys) for task in tasks) * spec.views
        if missing < total:
            which = f"{total:,}" if not missing else f"{total - missing:,} of {total:,}"
            reporter().note(f"{title}: {which} views reused")
        if tasks:
            _compute(config, root, want, dataset, cache, tasks, title)
    if tasks and (hint := fragmented(cache)):
        reporter().note(f"{title}: {hint}")
    return len(tasks)


def _compute(
    config: RunConfig,
    root: Root,
    want: Wanted,
    dataset: Dataset,
    cache: FeatureCache,
    tasks: list[ShardTask],
    title: str,
) -> None:
    """Have some shards computed, here or by others."""
    spec = want.spec
    missing = sum(len(task.keys) for task in tasks) * spec.views
    needed = footprint(spec.kinds, missing // spec.views, spec.views, cache.layout.rows_per_shard)
    require_space(root, needed.bytes, f"the feature cache of {dataset.name}")
    if (others := spread()) is None:
        _embed(config, root, want, dataset, cache, tasks, title)
        return
    others(config, want, dataset, tasks, title)
    if cache.missing([key for task in tasks for key in task.keys]):
        raise InputError(
            f"{title}: shards were computed, but are not in {root.url} as this machine sees it: "
            "give a root that all machines of the cluster see, a shared folder or s3://."
        )


def _embed(
    config: RunConfig,
    root: Root,
    want: Wanted,
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
            lambda arrays: check_stored(want.spec, arrays, config.cache.stored_cosine, title),
            through,
        )


def compute_shards(
    config: RunConfig, want: Wanted, dataset: Dataset, tasks: list[ShardTask], title: str
) -> None:
    """Compute shards of a cache that was planned elsewhere, as far as they are not there.

    Args:
        dataset: holds their images; it need not hold others.
    """
    root = open_root(config.root)
    cache = FeatureCache.open(root, want.spec.id)
    with ExitStack() as held:
        # A shard may be given to two machines, when one seems dead and is not. In one order, so
        # that nobody waits for a shard while holding one that the other waits for.
        for shard in sorted(task.shard for task in tasks):
            held.enter_context(alone(root, f"caches/{want.spec.id}/shard-{shard}"))
        if missing := cache.plan([key for task in tasks for key in task.keys]):
            _embed(config, root, want, dataset, cache, missing, title)
