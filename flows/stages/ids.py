"""Every spec and id of a run: what is made follows from its spec, and is found by nothing else.

A method's version is part of a spec, absent where it is 1: raise it with every change of what is
computed, so that a run computes again instead of finding what an older release made.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.data.code import python_identity
from flows.data.dataset import Dataset
from flows.data.features import require_one_width
from flows.data.latents import KnownTeacher
from flows.data.weights import initial_weights
from flows.stages.results import Indexed
from flows.stages.selection import selection_identity
from storage.cache import CacheSpec, KindSpec
from storage.identity import digest, file_digest, make_id
from storage.images import SourceConfig
from storage.root import open_root
from tintem_core.models.config import TeacherConfig
from tintem_core.models.student import constant_digest, natural_width, pretrained_digest
from tintem_core.views import EVAL, ViewRecipe

METHODS = {"mappings": 1, "students": 1, "embeddings": 1, "evaluations": 4, "exports": 2}


def _method(kind: str) -> dict[str, object]:
    return {} if METHODS[kind] == 1 else {"method": METHODS[kind]}


def artifact_id(config: RunConfig, spec: Mapping[str, object]) -> str:
    """Return the id of a student, of its evaluation or of its export, with a spec from here."""
    return make_id(f"{config.student.name}-{config.data.name}", dict(spec))


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


def mapping_spec(
    config: RunConfig, latents: dict[str, object], data: Dataset, width: int
) -> dict[str, object]:
    """Return everything that determines a mapping.

    Args:
        latents: see :meth:`Extracted.identity`.
        data: the images it is fitted on.
        width: K.
    """
    return {
        **latents,
        "images": data.digest("train"),
        "mapping": config.mapping.identity(
            config.views.count * len(data.keys("train")), tokens=config.cache.full_tokens
        ),
        "width": width,
        **_method("mappings"),
    }


def mapping_width(config: RunConfig) -> int:
    """Return K: what the config says, or the student's own width."""
    return config.mapping.width or natural_width(config.student)


def mapping_name(config: RunConfig, spec: dict[str, object]) -> str:
    """Return the id of a mapping with a :func:`mapping_spec`."""
    return make_id(f"{config.mapping.objective}-{spec['width']}-{config.data.name}", spec)


def student_spec(
    config: RunConfig, caches: Extracted, images: Indexed, mapping_id: str
) -> dict[str, object]:
    """Return everything that determines a student's weights.

    Args:
        config: the run.
        caches: what the teachers say of the images.
        images: what it learns from.
        mapping_id: the mapping.

    Raises:
        InputError: if the initial weights cannot be had.
    """
    student = {**config.student.identity(), **python_identity(config.student)}
    # The bytes count, not the name or the place.
    if config.student.weights is not None:
        student["weights"] = file_digest(initial_weights(config))
    elif config.student.pretrained:
        student["weights"] = pretrained_digest(config.student)
    elif config.student.kind == "python":
        student["weights"] = constant_digest(config.student)
    is_mapped = config.training.kind.uses_mapping
    needs_labels = config.training.kind.needs_labels or config.training.select == "best"
    return {
        **caches.identity(),
        **_further_targets(config, caches, images),
        "images": images.data.digest("train", labels=needs_labels),
        # The baselines have nothing of it but the width.
        "mapping": mapping_id if is_mapped else {"width": mapping_width(config)},
        "student": student,
        "training": _training_identity(config),
        **selection_identity(config, images.data),
        "method": METHODS["students"],
    }


def _training_identity(config: RunConfig) -> dict[str, Any]:
    found = config.training.identity(config.views.count)
    if config.mapping.fit == "joint":
        # Its mean target changes in every step: there is no centred term.
        found.pop("centred_weight", None)
    if config.views.recipe.name == "eval":
        found.pop("evaluation_view", None)
    return found


def _further_targets(config: RunConfig, caches: Extracted, images: Indexed) -> dict[str, object]:
    """Return what a student learns from beside the training views' embeddings.

    What it does not learn from leaves no trace: students of before keep their ids.
    """
    found: dict[str, object] = {}
    if caches.mapped_tokens:
        found["mapped_tokens"], *others = caches.mapped_tokens
        if others:
            found["further_mapped_tokens"] = others
    if config.evaluation_view:
        found["evaluation_cache"] = caches.evaluation_caches[config.data.name]
    if sources := config.support_sources:
        found["support"] = {
            source.name: [
                caches.evaluation_caches[source.name],
                images.support[source.name].digest(),
            ]
            for source in sources
        }
    return found


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
            **_method("embeddings"),
        },
        views=views,
        kinds={"global": kind},
    )


def evaluation_spec(
    config: RunConfig, student_id: str, extracted: Extracted, indexed: Indexed
) -> dict[str, object]:
    """Return everything that determines an evaluation."""
    masks: dict[str, object] = {}
    if config.evaluation.masks is not None:
        masks["masks"] = digest(sorted(open_root(config.evaluation.masks).sizes().items()))
    return {
        "student": student_id,
        "caches": [
            extracted.evaluation_caches,
            *([o.evaluation_caches, o.weight] for o in extracted.others),
        ],
        "images": {m.name: m.digest(labels=True) for m in indexed.datasets()},
        "settings": config.evaluation.identity(),
        **masks,
        **indexed.groups_identity(),
        **_method("evaluations"),
    }


def export_spec(config: RunConfig, student_id: str, evaluation_id: str) -> dict[str, object]:
    """Return everything that determines an export."""
    return {
        "student": student_id,
        "evaluation": evaluation_id,
        "export": config.export.identity(),
        **_method("exports"),
    }
