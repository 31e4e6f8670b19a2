"""Stage 2: teacher embeddings, once, into the feature cache."""

import math

from flows.config import RunConfig
from flows.provenance import provenance
from flows.reporting import reporter
from flows.stages.batches import ViewSource
from flows.stages.datasets import Dataset
from flows.stages.embed import embed_shards
from flows.stages.results import Extracted, Indexed
from flows.stages.teacher import load_teacher
from storage.cache import FeatureCache
from storage.root import Root
from storage.spec import CacheSpec, KindSpec, choose_layout
from tintem_core.teachers import Teacher
from tintem_core.views import EVAL, ViewRecipe


def extract(config: RunConfig, root: Root, indexed: Indexed) -> Extracted:
    """Make sure that every view of every image is in a cache; compute only what is missing."""
    teacher = load_teacher(config.teacher, config.runtime.device)
    views = cache_spec(config, teacher, config.data.name, config.views.recipe, config.views.count)
    computed = _ensure(config, root, teacher, views, indexed.data, "train")
    evaluation = {}
    for dataset in indexed.datasets():
        spec = cache_spec(config, teacher, dataset.name, EVAL, 1)
        computed += _ensure(config, root, teacher, spec, dataset, None)
        evaluation[dataset.name] = spec.id
    return Extracted(views.id, evaluation, reused=computed == 0)


def cache_spec(
    config: RunConfig, teacher: Teacher, dataset: str, recipe: ViewRecipe, views: int
) -> CacheSpec:
    """Say what a cache holds; its id follows from this and from nothing else."""
    shapes = teacher.describe()
    size = config.teacher.image_size
    kinds = {
        "global": KindSpec(shape=shapes["global"], dims=("feature",), dtype=config.cache.dtype)
    }
    if config.cache.tokens and recipe != EVAL:
        kinds["tokens"] = KindSpec(
            shape=shapes["tokens"], dims=("token", "feature"), dtype=config.cache.dtype
        )
    return CacheSpec(
        slug=f"{config.teacher.model}-{size}px-{dataset}-{recipe.name}",
        content={
            "teacher": teacher.identity(),
            "views": {**recipe.identity(), "base_size": size},
            "dataset": dataset,
        },
        views=views,
        kinds=kinds,
    )


def view_source(config: RunConfig, dataset: Dataset, split: str | None) -> ViewSource:
    """Return a renderer of the training views of a dataset's images."""
    return _source(config, dataset, split, config.views.recipe)


def eval_source(config: RunConfig, dataset: Dataset, split: str | None) -> ViewSource:
    """Return a renderer of the evaluation view of a dataset's images."""
    return _source(config, dataset, split, EVAL)


def _source(
    config: RunConfig, dataset: Dataset, split: str | None, recipe: ViewRecipe
) -> ViewSource:
    return ViewSource(
        dataset.reader,
        tuple(dataset.uris(split)),
        tuple(dataset.keys(split)),
        recipe,
        base_size=config.teacher.image_size,
    )


def _ensure(
    config: RunConfig,
    root: Root,
    teacher: Teacher,
    spec: CacheSpec,
    dataset: Dataset,
    split: str | None,
) -> int:
    """Compute the missing shards of one cache; return how many there were."""
    keys = dataset.keys(split)
    cache = FeatureCache.create_or_open(
        root,
        spec,
        rows_per_shard=config.cache.rows_per_shard or _rows_per_shard(spec, len(keys)),
        provenance=provenance(),
    )
    tasks = cache.plan(keys)
    total = len(keys) * spec.views
    missing = sum(len(task.keys) for task in tasks) * spec.views
    recipe = EVAL if spec.content["views"]["name"] == "eval" else config.views.recipe
    if missing < total:
        which = f"{total:,}" if not missing else f"{total - missing:,} of {total:,}"
        reporter().note(f"{dataset.name} ({recipe.name}): {which} views reused")
    if not tasks:
        return 0
    source = _source(config, dataset, split, recipe)
    with reporter().track(f"Extract {dataset.name} ({recipe.name})", missing, "views") as advance:
        embed_shards(cache, tasks, teacher, source, config.runtime.decode_threads, advance)
    return len(tasks)


def _rows_per_shard(spec: CacheSpec, images: int) -> int:
    """Cut a small dataset into about 16 shards, so that a kill loses little."""
    return min(choose_layout(spec, None).rows_per_shard, max(64, math.ceil(images / 16)))
