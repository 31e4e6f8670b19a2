"""Patch tokens stored through the mapping, where the teacher's wide ones would not fit.

Legend: ``N`` images, ``T`` tokens, ``D`` teacher width, ``K`` student width.
"""

import numpy as np

from flows.config.run import RunConfig
from flows.data.caches import Extracted, latents_identity
from flows.data.dataset import Dataset
from flows.data.latents import KnownTeacher
from flows.data.rendering import eval_source, render
from flows.execution.base import Executor
from flows.reporting.base import reporter
from flows.stages.cache_requests import CacheRequest, requested_caches, requested_tokens
from flows.stages.extract import ensure
from flows.stages.ids import mapping_name, mapping_spec, mapping_width
from flows.stages.map import apply, load_mapping
from flows.stages.models import load_teacher
from flows.stages.results import Indexed, Mapped
from storage.cache import FeatureCache
from storage.errors import MissingObjectError
from storage.images import Manifest
from storage.root import Root
from tintem_core.evaluation.pairs import angle_preservation

_PHOTOS_MEASURED = 8


def keep_mapped_tokens(
    config: RunConfig,
    root: Root,
    indexed: Indexed,
    extracted: Extracted,
    mapped: Mapped,
    executor: Executor | None = None,
) -> Extracted:
    """Make sure that the training views' tokens are stored through the mapping.

    Returns:
        ``extracted``, with their cache.
    """
    wanted = requested_tokens(
        config, load_teacher(config.teacher, config.runtime.device), mapped.id
    )
    kept: dict[str, float] = {}
    try:
        FeatureCache.open(root, wanted[0].spec.id)
    except MissingObjectError:
        kept = tokens_kept(config, root, indexed.data, mapped)
        reporter().note(
            f"tokens stored {mapping_width(config)} wide instead of "
            f"{mapped.record['teacher_width']}: their angles keep Pearson "
            f"{kept['pairwise_pearson']:.4f}, mean absolute cosine error "
            f"{kept['mean_abs_cosine_error']:.4f}, neighbours {kept['neighbour_overlap_10']:.3f} "
            f"(over {kept['n']:.0f} tokens of {kept['photos']:.0f} held-out photos)"
        )
    views, *others = wanted
    beside = {"mapped_tokens": kept}
    computed = ensure(config, root, views, indexed, beside=beside, executor=executor)
    computed += sum(ensure(config, root, want, indexed, executor=executor) for want in others)
    return Extracted(
        extracted.training_cache,
        extracted.evaluation_caches,
        reused=extracted.reused and computed == 0,
        mapped_tokens=tuple(want.spec.id for want in wanted),
    )


def tokens_kept(config: RunConfig, root: Root, data: Dataset, mapped: Mapped) -> dict[str, float]:
    """Say how well the mapping keeps the angles between tokens of a few held-out photos.

    Returns:
        See :func:`angle_preservation`; and ``photos``, how many.
    """
    source = eval_source(config, data, "test")
    teacher = load_teacher(config.teacher, config.runtime.device)
    # Sorted by content key, so that the first are as good as any.
    photos = min(_PHOTOS_MEASURED, len(source.keys))
    size = config.teacher.image_size
    pixels = render(source, range(photos), size, config.runtime.decode_threads)
    tokens_NTD = teacher.embed(pixels, tokens=True).tokens
    assert tokens_NTD is not None
    tokens_ND = tokens_NTD.reshape(-1, tokens_NTD.shape[-1])
    # A token of zeros, as behind a ReLU, has no angle.
    tokens_ND = tokens_ND[np.any(tokens_ND != 0, axis=1)]
    kept = angle_preservation(tokens_ND, apply(load_mapping(config, root, mapped), tokens_ND))
    return {**kept, "photos": float(photos)}


def known_mapped_tokens(config: RunConfig, root: Root, teacher: KnownTeacher) -> list[CacheRequest]:
    """Return the caches of mapped tokens that the run has for the images indexed last.

    None where it keeps none, or where its images are not indexed yet.
    """
    if not config.cache.keep_mapped:
        return []
    manifest = Manifest.latest(root, config.data.name)
    if manifest is None:
        return []
    latents = latents_identity(requested_caches(config, teacher)[0].spec.id, ())
    spec = mapping_spec(config, latents, Dataset(manifest), mapping_width(config))
    return requested_tokens(config, teacher, mapping_name(config, spec))
