"""Embeddings that an evaluation needs, stored once per model and dataset.

Legend: ``V`` views, ``N`` images, ``D`` width.
"""

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from flows.config.run import RunConfig
from flows.data.dataset import Dataset
from flows.data.embedding import embed_shards
from flows.data.rendering import renderer
from flows.provenance import provenance
from flows.reporting.base import reporter
from flows.stages.ensure import exclusive
from storage.cache import CacheSpec, FeatureCache
from storage.cache.footprint import rows_per_shard
from storage.root import Root
from tintem_core.models.embedder import Embedder
from tintem_core.views import EVAL, ViewRecipe


def stored_embeddings(
    config: RunConfig,
    root: Root,
    spec: CacheSpec,
    model: Callable[[], Embedder],
    dataset: Dataset,
    split: str | None,
    *,
    recipe: ViewRecipe = EVAL,
    only: Collection[str] | None = None,
) -> NDArray[np.float32]:
    """Return a model's embeddings of some images' views: (V, N, D), float32.

    What is not stored yet is computed, and stored shard by shard.

    Args:
        config: the run.
        root: holds the cache.
        spec: what the cache holds.
        model: loads what embeds; called only where something is to be computed.
        dataset: whose images.
        split: which of them.
        recipe: how their views are cut.
        only: keys of the images wanted; None: all of the split.
    """
    # In the order of the source: its files are then read from beginning to end.
    wanted, keys = dataset.keys(split), dataset.manifest.keys(split)
    if only is not None:
        wanted, keys = ([key for key in found if key in only] for found in (wanted, keys))
    cache = FeatureCache.create_or_open(
        root,
        spec,
        rows_per_shard=config.cache.rows_per_shard or rows_per_shard(spec, len(keys)),
        provenance=provenance(),
    )
    if cache.missing(keys):
        with exclusive(root, f"caches/{spec.id}"):
            tasks = cache.plan(keys)
            if tasks:
                total = sum(len(task.keys) for task in tasks) * spec.views
                title, unit = f"Embed {dataset.name}", "photos"
                if recipe != EVAL:
                    title, unit = f"{title} ({recipe.name}) by {spec.slug}", "views"
                with reporter().track(title, total, unit) as advance:
                    source = renderer(config, dataset, split, recipe)
                    threads = config.runtime.decode_threads
                    embed_shards(cache, tasks, model(), source, threads, advance)
    reader = cache.reader(wanted)
    return np.stack(
        [reader.all(view=view).astype(np.float32, copy=False) for view in range(spec.views)]
    )
