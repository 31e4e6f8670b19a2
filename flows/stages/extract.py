"""Stage 2: teacher embeddings, once, into the feature cache."""

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from typing import Any

from flows.config.run import RunConfig
from flows.data.caches import Extracted, TeacherCaches, fragmented
from flows.data.space import require_space
from flows.execution.base import Executor
from flows.provenance import provenance
from flows.reporting.base import reporter
from flows.stages.cache_requests import CacheRequest, requested_caches
from flows.stages.ensure import exclusive
from flows.stages.models import known_teacher
from flows.stages.results import Indexed
from flows.stages.shards import compute_elsewhere, embed_here, import_here, in_file_order
from storage.cache import FeatureCache
from storage.cache.footprint import footprint, rows_per_shard
from storage.root import Root
from tintem_core.models.config import TeacherConfig


def extract(
    config: RunConfig, root: Root, indexed: Indexed, executor: Executor | None = None
) -> Extracted:
    """Make sure that every view of every image is in a cache; compute only what is missing.

    Args:
        executor: who computes; None: this process.
    """
    views, evaluation, computed = _extract(config, root, indexed, config.teacher, executor)
    others = []
    for other in config.other_teachers:
        other_views, other_evaluation, more = _extract(
            config, root, indexed, other.teacher(), executor
        )
        others.append(TeacherCaches(other.name, other.weight, other_views, other_evaluation))
        computed += more
    return Extracted(views, evaluation, reused=computed == 0, others=tuple(others))


def _extract(
    config: RunConfig,
    root: Root,
    indexed: Indexed,
    teacher: TeacherConfig,
    executor: Executor | None,
) -> tuple[str, dict[str, str], int]:
    """Return one teacher's caches: training views, evaluation by dataset, shards computed."""
    views, *evaluation = requested_caches(config, known_teacher(teacher, config.runtime.device))
    # Latents of a file are of the evaluation view: both are one cache, which is checked as a whole.
    wanted = (views, *evaluation) if teacher.latents is None else evaluation
    computed = sum(ensure(config, root, want, indexed, executor=executor) for want in wanted)
    return views.spec.id, {want.source.name: want.spec.id for want in evaluation}, computed


def ensure(
    config: RunConfig,
    root: Root,
    want: CacheRequest,
    indexed: Indexed,
    only: Collection[int] | None = None,
    beside: Mapping[str, Any] | None = None,
    executor: Executor | None = None,
) -> int:
    """Compute the missing shards of one cache; return how many there were.

    A shard of which an image is no longer among the run's cannot be computed again: its other
    images get a new shard when the extraction runs the next time.

    Args:
        only: of these shards; None: of all.
        beside: what a new cache's provenance says besides.
        executor: see :func:`extract`.

    Raises:
        InputError: if the mapping that tokens go through is not there.
    """
    dataset = indexed.dataset(want.source.name)
    # In the order of the source: its files are then read from beginning to end.
    keys = dataset.manifest.keys(want.split)
    if want.teacher.latents is not None:
        keys = in_file_order(want.teacher, dataset, want.split)
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
        title += f" for {want.teacher.name}"
    if want.mapping is not None:
        title += ", mapped tokens"
    if cache.layout.codec != config.cache.codec:
        reporter().note(
            f"{title}: the cache keeps the codec '{cache.layout.codec}' that it was made with; "
            f"for '{config.cache.codec}' delete {root.url}/{cache.base} and extract again"
        )
    is_whole = not cache.missing(keys)
    with nullcontext() if is_whole else exclusive(root, f"caches/{spec.id}"):
        # Not before: it gives out rows, which another run may be about to fill.
        planned = [] if is_whole else cache.plan(keys)
        tasks = [task for task in planned if only is None or task.shard in only]
        left = sum(len(task.keys) for task in tasks) * spec.views
        if left < total:
            which = f"{total:,}" if not left else f"{total - left:,} of {total:,}"
            reporter().note(f"{title}: {which} views reused")
        if tasks:
            rows = cache.layout.rows_per_shard
            needed = footprint(spec.kinds, left // spec.views, spec.views, rows).bytes
            require_space(root, needed, f"the feature cache of {dataset.name}")
            if want.teacher.latents is not None:
                import_here(config, want, dataset, cache, tasks, title)
            elif executor is None:
                embed_here(config, root, want, dataset, cache, tasks, title)
            else:
                compute_elsewhere(config, want, dataset, cache, tasks, title, executor)
    if tasks and (hint := fragmented(cache)):
        reporter().note(f"{title}: {hint}")
    return len(tasks)
