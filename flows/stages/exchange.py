"""What a student finds in an index that another student of the root has filled.

Legend: ``N`` images, ``K`` width of the space that both were trained into.
"""

from functools import partial
from typing import Any

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.data.dataset import Dataset
from flows.data.features import evaluation_latents
from flows.reporting.base import reporter
from flows.stages.cache_requests import student_cache_spec
from flows.stages.measure import draws
from flows.stages.models import load_embedder
from flows.stages.results import Mapped, Trained
from flows.stages.spaces import Array, Found, classes_of
from flows.stages.stored_embeddings import stored_embeddings
from storage.artifacts import read_record
from storage.errors import MissingObjectError
from storage.root import Root
from tintem_core.evaluation.metrics import EXCHANGE
from tintem_core.evaluation.shared_space import shared_knn, shared_space
from tintem_core.mapping.config import MappingConfig
from tintem_core.models.config import StudentConfig
from tintem_core.training.config import TrainingConfig


def exchange_rows(
    config: RunConfig,
    root: Root,
    data: Dataset,
    extracted: Extracted,
    mapped: Mapped,
    trained: Trained,
    other: str,
) -> Found:
    """Let a student ask the index that another one filled; nothing where they share no space.

    Args:
        config: the student's run.
        root: holds both.
        data: the photos: the index is of the test photos, and of the train photos for votes.
        extracted: what the teacher says of them.
        mapped, trained: the student that asks.
        other: id of the student whose embeddings are the index.

    Raises:
        MissingObjectError: if the other student is not there.
    """
    if reason := _apart(config, root, mapped, trained, other):
        reporter().note(f"not measured in the index of {other}: {reason}")
        return
    theirs = recorded(config, root, other, mapped.id)
    queries = _embedded(root, config, mapped, trained, data, "test")
    index = _embedded(root, *theirs, data, "test")
    teacher = evaluation_latents(root, extracted, data, "test")
    for row in shared_space(teacher, index, queries, **draws(config)):
        yield EXCHANGE, "test", row
    if (classes := classes_of(data, {})) is not None:
        told, asked = classes.train >= 0, classes.of["test"] >= 0
        row = shared_knn(
            _embedded(root, *theirs, data, "train")[told],
            classes.train[told],
            queries[asked],
            classes.of["test"][asked],
            config.evaluation.knn,
            **draws(config),
        )
        yield EXCHANGE, "test", row


def recorded(
    config: RunConfig, root: Root, student: str, mapping: str
) -> tuple[RunConfig, Mapped, Trained]:
    """Return a finished student as its own records describe it, whatever the config says.

    Raises:
        MissingObjectError: if it is not in the root any more.
    """
    record, map_record = _record(root, "students", student), _record(root, "mappings", mapping)
    spec = record["spec"]
    then = {
        "student": _student_of(spec["student"], config.student),
        "training": TrainingConfig.model_validate(spec["training"]),
        "mapping": MappingConfig.model_validate(map_record["spec"]["mapping"]),
    }
    return (
        config.model_copy(update=then),
        Mapped(id=mapping, record=map_record, reused=True),
        Trained(id=student, record=record, reused=True),
    )


def _apart(
    config: RunConfig, root: Root, mapped: Mapped, trained: Trained, other: str
) -> str | None:
    """Say why a student's embeddings are nothing to look for in an index; None where they are."""
    spec = _record(root, "students", other)["spec"]
    if not config.training.kind.uses_mapping:
        return f"{config.training.objective} trains the student into a space of its own"
    if spec["mapping"] != mapped.id:
        return f"it was trained through another mapping than {mapped.id}"
    if config.mapping.fit == "joint" and other != trained.id:
        return "each of the two fitted its mapping while it learned"
    return None


def _embedded(
    root: Root, config: RunConfig, mapped: Mapped, trained: Trained, data: Dataset, split: str
) -> Array:
    width = mapped.record["spec"]["width"]
    spec = student_cache_spec(config, trained.id, width, data.name)
    model = partial(load_embedder, config, root, mapped, trained)
    found: Array = stored_embeddings(config, root, spec, model, data, split)[0]
    return found


def _student_of(spec: dict[str, Any], now: StudentConfig) -> StudentConfig:
    """Return a finished student's config, as its record describes it."""
    known = {name: spec[name] for name in spec if name in StudentConfig.model_fields}
    if spec.get("python") is not None and spec["python"] == now.name:
        # A record knows no folders.
        known["python"] = now.python
    return StudentConfig.model_validate({**known, "weights": None})


def _record(root: Root, kind: str, id: str) -> dict[str, Any]:
    record = read_record(root, kind, id)
    if record is None:
        raise MissingObjectError(
            f"{root.url} holds no {kind}/{id}, so no student can be compared with it: `tintem "
            "status` lists what there is. Bring it back, or compare with another one."
        )
    return record
