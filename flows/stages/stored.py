"""A finished run, found again by its config: nothing is listed, embedded or trained."""

from dataclasses import replace
from typing import Any

from flows.config.run import RunConfig
from flows.data.caches import Extracted, TeacherCaches
from flows.data.dataset import Dataset
from flows.stages.cache_requests import requested_caches, requested_tokens
from flows.stages.ensure import find_whole
from flows.stages.ids import (
    artifact_id,
    evaluation_spec,
    export_spec,
    mapping_name,
    mapping_spec,
    mapping_width,
    student_spec,
)
from flows.stages.models import known_teacher
from flows.stages.pipeline import Pipeline
from flows.stages.results import REPORT, Evaluated, Exported, Indexed, Mapped, Trained
from storage.artifacts import list_artifacts, read_record
from storage.cache import FeatureCache
from storage.errors import StorageError
from storage.images import Manifest, SourceConfig
from storage.root import Root
from tintem_core.errors import InputError

_CURE = "`tintem run CONFIG.yaml` computes what is missing."


def stored_run(config: RunConfig) -> Pipeline:
    """Return a run whose stages are all done, with the photos as they were last indexed.

    Raises:
        InputError: if something of it is not there, or was made with other settings.
    """
    pipeline = stored_features(config)
    root = pipeline.root
    mapping, pipeline.all_caches, student = awaited(pipeline)
    pipeline.mapped = Mapped(id=mapping, record=_record(root, "mappings", mapping), reused=True)
    record = _record(root, "students", student)
    pipeline.trained = Trained(id=student, record=record, reused=True)
    find_results(pipeline, _CURE)
    return pipeline


def done_run(config: RunConfig) -> Pipeline | None:
    """Return a run of which nothing is left to do; None where something is, or may be.

    Its photos are listed anew, and looked at where they are new; nothing else is computed.
    """
    # What another system holds, or a table beside the photos says, is not known here.
    if config.tracking.mlflow is not None or config.evaluation.groups:
        return None
    try:
        known = stored_run(config)
        is_whole = _is_embedded(known) and _are_whole(known)
    # What is wrong with it, a run says.
    except (InputError, StorageError):
        return None
    now = Pipeline(config).indexed
    then = known.indexed
    sets = [(now.data, then.data), *_pairs(now.listed_ood, then.listed_ood)]
    sets += _pairs(now.listed_support, then.listed_support)
    if any(one.manifest.id != other.manifest.id for one, other in sets):
        return None
    return known if is_whole else None


def _are_whole(run: Pipeline) -> bool:
    """Whether every byte of a run's results is as it was recorded, and the report is there."""
    made = {
        "mappings": run.mapped,
        "students": run.trained,
        "evaluations": run.evaluated,
        "exports": run.exported,
    }
    # Written after the export's record, which says nothing of it.
    return run.root.exists(f"exports/{run.exported.id}/{REPORT}") and all(
        find_whole(run.root, kind, found.id) is not None for kind, found in made.items()
    )


def _pairs(now: dict[str, Dataset], then: dict[str, Dataset]) -> list[tuple[Dataset, Dataset]]:
    return [(found, then[name]) for name, found in now.items()]


def _is_embedded(run: Pipeline) -> bool:
    """Whether the caches hold every view that the run asks for."""
    if run.config.cache.keep_mapped:
        return False
    stored, indexed = run.extracted, run.indexed
    training = [stored.training_cache, *(o.training_cache for o in stored.others)]
    wanted = dict.fromkeys(training, indexed.data.keys("train"))
    for caches in (stored.evaluation_caches, *(o.evaluation_caches for o in stored.others)):
        wanted |= {id: indexed.dataset(name).keys() for name, id in caches.items()}
    return not any(FeatureCache.open(run.root, id).missing(keys) for id, keys in wanted.items())


def awaited(pipeline: Pipeline) -> tuple[str, Extracted, str]:
    """Return the mapping, all caches and the student that a run makes, be they there or not.

    Args:
        pipeline: see :func:`stored_features`.

    Raises:
        InputError: if the student's initial weights cannot be had.
    """
    config, indexed, extracted = pipeline.config, pipeline.indexed, pipeline.extracted
    spec = mapping_spec(config, extracted.identity(), indexed.data, mapping_width(config))
    mapping = mapping_name(config, spec)
    if config.cache.keep_mapped:
        teacher = known_teacher(config.teacher, config.runtime.device)
        tokens = tuple(want.spec.id for want in requested_tokens(config, teacher, mapping))
        extracted = replace(extracted, mapped_tokens=tokens)
    return (
        mapping,
        extracted,
        artifact_id(config, student_spec(config, extracted, indexed, mapping)),
    )


def find_results(pipeline: Pipeline, cure: str) -> None:
    """Find the evaluation and the export of a run's student, by the settings of the run.

    Args:
        pipeline: a run with all that comes before; it is given both.
        cure: what to do where one is missing, as the end of a sentence.

    Raises:
        InputError: if one is missing.
    """
    config, root, student = pipeline.config, pipeline.root, pipeline.trained.id
    spec = evaluation_spec(config, student, pipeline.extracted, pipeline.indexed.measured)
    found = _by_groups(config, root, spec, cure) or artifact_id(config, spec)
    record = _record(root, "evaluations", found, cure)
    pipeline.evaluated = Evaluated(id=found, record=record, reused=True)
    export = artifact_id(config, export_spec(config, student, found))
    record = _record(root, "exports", export, cure)
    location = f"{root.url}/exports/{export}"
    pipeline.exported = Exported(id=export, record=record, reused=True, location=location)


def _by_groups(config: RunConfig, root: Root, spec: dict[str, object], cure: str) -> str | None:
    """Return the newest evaluation by the groups of a config; None where it asks for none.

    What the groups were is as it was then: the source may be gone, or say something else.
    """
    columns = config.evaluation.groups
    if not columns:
        return None

    def by_columns(spec: dict[str, Any]) -> dict[str, Any]:
        return {**spec, "groups": sorted(spec.get("groups", ()))}

    wanted = by_columns({**spec, "groups": columns})
    found = [
        t for t in list_artifacts(root, "evaluations") if by_columns(t.record["spec"]) == wanted
    ]
    if not found:
        raise InputError(
            f"{root.url} holds no evaluation of {spec['student']} by {', '.join(columns)} "
            f"(evaluation.groups) on the photos as last indexed: {cure}"
        )
    return max(found, key=lambda thing: thing.created).id


def stored_features(config: RunConfig) -> Pipeline:
    """Return a run whose photos are as they were last indexed, with the caches that it asks for.

    Raises:
        InputError: if the photos were never indexed.
    """
    pipeline = Pipeline(config)
    pipeline.indexed = _indexed(config, pipeline.root)
    teachers = [known_teacher(each, config.runtime.device) for each in config.teachers]
    caches = [[want.spec.id for want in requested_caches(config, each)] for each in teachers]
    names = [want.source.name for want in requested_caches(config, teachers[0])[1:]]
    others = tuple(
        TeacherCaches(other.name, other.weight, views, dict(zip(names, evaluation, strict=True)))
        for other, (views, *evaluation) in zip(config.other_teachers, caches[1:], strict=True)
    )
    views, *evaluation = caches[0]
    pipeline.extracted = Extracted(views, dict(zip(names, evaluation, strict=True)), True, others)
    return pipeline


def _indexed(config: RunConfig, root: Root) -> Indexed:
    return Indexed(
        _latest(config.data, root),
        _by_name(config.evaluation.ood, root),
        _by_name(config.support_sources, root),
    )


def _by_name(sources: tuple[SourceConfig, ...], root: Root) -> dict[str, Dataset]:
    return {source.name: _latest(source, root) for source in sources}


def _latest(source: SourceConfig, root: Root) -> Dataset:
    manifest = Manifest.latest(root, source.name)
    if manifest is None:
        raise InputError(f"{root.url} knows no photos of {source.name}: {_CURE}")
    return Dataset(manifest, root.reading)


def _record(root: Root, kind: str, id: str, cure: str = _CURE) -> dict[str, Any]:
    record = read_record(root, kind, id)
    if record is None:
        raise InputError(
            f"{root.url} holds no {kind}/{id}, which this config and the photos as last indexed "
            f"make: {cure}"
        )
    return record
