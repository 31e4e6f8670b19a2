"""A student's own embeddings, stored once per student and dataset, as the teacher's are.

Legend: ``N`` images, ``K`` student width.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from flows.config.run import RunConfig
from flows.data.dataset import Dataset
from flows.data.embedding import embed_shards
from flows.data.rendering import eval_source
from flows.provenance import provenance
from flows.reporting.base import reporter
from flows.stages.ensure import exclusive
from flows.stages.ids import student_cache_spec
from storage.cache import FeatureCache
from storage.cache.footprint import rows_per_shard
from storage.root import Root
from tintem_core.models.device import choose_device
from tintem_core.models.embedder import Embedder
from tintem_core.models.student import Student


def student_embeddings(
    config: RunConfig,
    root: Root,
    student_id: str,
    width: int,
    student: Callable[[], Student],
    dataset: Dataset,
    split: str | None,
) -> NDArray[np.float32]:
    """Return the student's embeddings of some images' evaluation view: (N, K), float32.

    What is not stored yet is computed, and stored shard by shard.

    Args:
        config: the run.
        root: holds the cache.
        student_id: whose embeddings.
        width: K.
        student: loads it; called only where something is to be computed.
        dataset: whose images.
        split: which of them.
    """
    spec = student_cache_spec(config, student_id, width, dataset.name)
    # In the order of the source: its files are then read from beginning to end.
    keys = dataset.manifest.keys(split)
    cache = FeatureCache.create_or_open(
        root, spec, rows_per_shard=rows_per_shard(spec, len(keys)), provenance=provenance()
    )
    if cache.missing(keys):
        with exclusive(root, f"caches/{spec.id}"):
            tasks = cache.plan(keys)
            if tasks:
                model = Embedder(
                    student(),
                    config.student.image_size,
                    device=choose_device(config.runtime.device),
                )
                total = sum(len(task.keys) for task in tasks)
                with reporter().track(f"Embed {dataset.name}", total, "photos") as advance:
                    source = eval_source(config, dataset, split)
                    threads = config.runtime.decode_threads
                    embed_shards(cache, tasks, model, source, threads, advance)
    return cache.reader(dataset.keys(split)).all(view=0).astype(np.float32)
