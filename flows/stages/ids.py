"""Every spec and id of what a run makes from its caches.

What is made follows from its spec, and is found by nothing else.

A method's version is part of a spec, absent where it is 1: raise it with every change of what is
computed, so that a run computes again instead of finding what an older release made.
"""

from collections.abc import Mapping
from typing import Any

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.data.code import python_identity
from flows.data.dataset import Dataset
from flows.data.weights import initial_weights
from flows.stages.results import Indexed
from flows.stages.selection import selection_identity
from storage.identity import digest, file_digest, make_id
from storage.root import open_root
from tintem_core.models.student import constant_digest, natural_width, pretrained_digest

METHODS = {"mappings": 1, "students": 1, "embeddings": 1, "evaluations": 5, "exports": 2}


def method(kind: str) -> dict[str, object]:
    """Return what a spec has of the version of its method: nothing where that is 1."""
    return {} if METHODS[kind] == 1 else {"method": METHODS[kind]}


def artifact_id(config: RunConfig, spec: Mapping[str, object]) -> str:
    """Return the id of a student, of its evaluation or of its export, with a spec from here."""
    return make_id(f"{config.student.name}-{config.data.name}", dict(spec))


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
        **method("mappings"),
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


def evaluation_spec(
    config: RunConfig, student_id: str, extracted: Extracted, indexed: Indexed
) -> dict[str, object]:
    """Return everything that determines an evaluation."""
    further: dict[str, object] = {}
    if config.evaluation.masks is not None:
        further["masks"] = digest(sorted(open_root(config.evaluation.masks).sizes().items()))
    if config.evaluation.index is not None:
        further["index"] = config.evaluation.index
    return {
        "student": student_id,
        "caches": [
            extracted.evaluation_caches,
            *([o.evaluation_caches, o.weight] for o in extracted.others),
        ],
        "images": {m.name: m.digest(labels=True) for m in indexed.datasets()},
        "settings": config.evaluation.identity(),
        **further,
        **indexed.groups_identity(),
        **method("evaluations"),
    }


def export_spec(config: RunConfig, student_id: str, evaluation_id: str) -> dict[str, object]:
    """Return everything that determines an export."""
    return {
        "student": student_id,
        "evaluation": evaluation_id,
        "export": config.export.identity(),
        **method("exports"),
    }
