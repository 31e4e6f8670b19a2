"""Which caches a run needs, and what each of them holds: its id follows from nothing else."""

import math
from dataclasses import dataclass, replace

from flows.config.run import RunConfig
from flows.data.features import require_one_width
from flows.data.latents import KnownTeacher
from flows.stages.ids import mapping_width, method
from storage.cache import CacheSpec, KindSpec
from storage.images import SourceConfig
from tintem_core.models.config import TeacherConfig
from tintem_core.views import EVAL, ViewRecipe


@dataclass(frozen=True)
class CacheRequest:
    """A cache that a run needs: of which images, and what it holds."""

    teacher: TeacherConfig
    source: SourceConfig
    split: str | None
    recipe: ViewRecipe
    spec: CacheSpec
    mapping: str | None = None
    """The stored mapping that tokens go through; None: they are kept as the teacher gives them."""


def requested_caches(config: RunConfig, teacher: KnownTeacher) -> list[CacheRequest]:
    """Return one teacher's training views first, then the evaluation view of every dataset.

    The datasets: the run's own, the OOD sets, the sets of support images.
    """

    def want(
        source: SourceConfig, split: str | None, recipe: ViewRecipe, views: int
    ) -> CacheRequest:
        is_strange = source in config.evaluation.ood
        spec = cache_spec(config, teacher, source.name, recipe, views, tokens=not is_strange)
        return CacheRequest(teacher.config, source, split, recipe, spec)

    datasets = (config.data, *config.evaluation.ood, *config.support_sources)
    return [
        want(config.data, "train", config.views.recipe, config.views.count),
        *(want(source, None, EVAL, 1) for source in datasets),
    ]


def taught_views(config: RunConfig) -> list[tuple[SourceConfig, ViewRecipe]]:
    """Return the views that students learn from: training, evaluation view, support images."""
    views = [(config.data, config.views.recipe)]
    if config.evaluation_view:
        views.append((config.data, EVAL))
    return [*views, *((source, EVAL) for source in config.support_sources)]


def requested_tokens(
    config: RunConfig, teacher: KnownTeacher, mapping_id: str
) -> list[CacheRequest]:
    """Return caches of tokens, mapped to the student's width, one per :func:`taught_views`.

    Raises:
        InputError: if tokens and embedding differ in width.
    """
    shapes = teacher.describe(tokens=True)
    count, width = shapes["tokens"]
    require_one_width(width, shapes["global"][-1])
    tokens = _token_kind(config, (count, mapping_width(config)))
    taught = taught_views(config)
    found = []
    for latents in requested_caches(config, teacher):
        if (latents.source, latents.recipe) not in taught:
            continue
        spec = CacheSpec(
            slug=f"{latents.spec.slug}-mapped",
            content={**latents.spec.content, "mapping": mapping_id},
            views=latents.spec.views,
            kinds={"tokens": tokens},
        )
        split = "train" if latents.source == config.data else None
        found.append(replace(latents, spec=spec, mapping=mapping_id, split=split))
    return found


def cache_spec(
    config: RunConfig,
    teacher: KnownTeacher,
    dataset: str,
    recipe: ViewRecipe,
    views: int,
    *,
    tokens: bool = True,
) -> CacheSpec:
    """Say what a cache holds; its id follows from this and from nothing else.

    Args:
        tokens: whether patch tokens are wanted, where the run stores them at all.
    """
    has_tokens = config.cache.full_tokens and tokens
    shapes = teacher.describe(tokens=has_tokens)
    kinds = {
        "global": KindSpec(shape=shapes["global"], dims=("feature",), dtype=config.cache.dtype)
    }
    if has_tokens:
        kinds["tokens"] = _token_kind(config, shapes["tokens"])
    return CacheSpec(
        slug=f"{teacher.config.name}-{teacher.config.image_size}px-{dataset}-{recipe.name}",
        content={
            "teacher": teacher.identity(),
            # Every teacher of a run sees the views of the first one, at its own size.
            "views": {**recipe.identity(), "base_size": config.teacher.image_size},
            "dataset": dataset,
        },
        views=views,
        kinds=kinds,
    )


def _token_kind(config: RunConfig, shape: tuple[int, ...]) -> KindSpec:
    side = math.isqrt(shape[0])
    return KindSpec(
        shape=shape,
        dims=("token", "feature"),
        dtype=config.cache.dtype,
        grid=(side, side) if side * side == shape[0] else None,
    )


def student_cache_spec(
    config: RunConfig,
    student_id: str,
    width: int,
    dataset: str,
    recipe: ViewRecipe = EVAL,
    views: int = 1,
) -> CacheSpec:
    """Say what the cache of a student's own embeddings of a dataset's views holds."""
    kind = KindSpec(shape=(width,), dims=("feature",), dtype="float32")
    return CacheSpec(
        slug=f"student-{config.student.name}-{dataset}-{recipe.name}",
        content={
            "student": student_id,
            "views": {**recipe.identity(), "base_size": config.teacher.image_size},
            "dataset": dataset,
            **method("embeddings"),
        },
        views=views,
        kinds={"global": kind},
    )
