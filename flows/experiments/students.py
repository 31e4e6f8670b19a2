"""The students of a sweep: which there are, which of them are one, and what they share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from flows.config.checks import closest_first, metrics_of
from flows.config.run import RunConfig
from flows.config.sweep import DEFAULT_METRIC
from flows.config.variants import variant
from flows.data.caches import Extracted
from flows.data.dataset import Dataset
from flows.stages.cache_requests import requested_tokens
from flows.stages.ids import (
    artifact_id,
    mapping_name,
    mapping_spec,
    mapping_width,
    student_spec,
)
from flows.stages.models import load_teacher
from flows.stages.pipeline import Pipeline
from flows.stages.preflight import preflight
from flows.stages.results import Indexed, from_ids
from tintem_core.errors import InputError
from tintem_core.evaluation.metrics import metric_of


@dataclass(frozen=True)
class PlannedStudent:
    """One student of a sweep: the run that would train it alone."""

    name: str
    variant: str
    """The name without the seed."""
    config: RunConfig


@dataclass(frozen=True)
class SweepStudent(PlannedStudent):
    """A student of a sweep whose id is known, trained or not."""

    id: str
    mapping: str
    """The id of the mapping that it needs."""
    twins: tuple[str, ...] = ()
    """Further names of the sweep that turned out to be this student."""


def finish(config: RunConfig, handed: dict[str, Any]) -> dict[str, str]:
    """Train, evaluate and export a student, as far as that is not done.

    Args:
        config: the run of this student alone.
        handed: the stages before its training; see :mod:`flows.stages.results`.

    Returns:
        The ids of the student, its evaluation and its export.
    """
    run = Pipeline(config)
    run.indexed, run.all_caches, run.mapped = from_ids(run.root, handed)
    run.extracted = run.all_caches
    return {"student": run.trained.id, "evaluation": run.evaluated.id, "export": run.exported.id}


def plan_students(config: RunConfig) -> tuple[PlannedStudent, ...]:
    """Return every student that the config's sweep names, each known to be able to start.

    Raises:
        InputError: if there is no sweep, or a student of it cannot be built.
    """
    if config.sweep is None:
        raise InputError(
            "the config has no sweep: give one, such as sweep: {grid: {student.model: "
            "[mobilenetv3_small_050, mobilenetv3_small_100]}}."
        )
    alone = config.model_copy(update={"sweep": None})
    students, checked = [], set()
    for point in config.sweep.points(config.student.name):
        where = f"{point.where} ({point.name})"
        changed = variant(alone, point.settings, where)
        # A seed or a learning rate cannot make a student impossible.
        _refuse_new_views(config, changed, where)
        parts = (changed.student.model_dump_json(), changed.mapping, changed.training.optimizer)
        if parts not in checked:
            try:
                preflight(changed)
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
            checked.add(parts)
        students.append(PlannedStudent(point.name, point.variant, changed))
    _refuse_unmeasured(config.sweep.metric, students)
    return tuple(students)


def _refuse_new_views(config: RunConfig, student: RunConfig, where: str) -> None:
    if student.support_sources and not config.support_sources:
        raise InputError(
            f"{where}: learns from support images, which the run does not embed: set "
            "training.support above 0 in the run itself, and to 0 for the students without."
        )


def _refuse_unmeasured(metric: str, students: Sequence[PlannedStudent]) -> None:
    measured = dict.fromkeys(name for s in students for name in metrics_of(s.config))
    known = [name for name in measured if not name.startswith("teacher/")]
    if metric not in known:
        raise InputError(
            f"sweep.metric: '{metric}' is not measured for any student (known, closest first: "
            f"{', '.join(closest_first(known, metric))})."
        )


def refuse_unlabelled(config: RunConfig, data: Dataset) -> None:
    """Raises InputError if the sweep ranks by what only labels tell, and photos have none."""
    metric = DEFAULT_METRIC if config.sweep is None else config.sweep.metric
    if metric_of(metric).needs_labels and not data.is_labelled:
        raise InputError(
            f"sweep.metric: '{metric}' is measured over the train and test photos that have "
            f"labels, and photos of {data.name} have none: label them, or rank by "
            f"'{DEFAULT_METRIC}'."
        )


def select_students(students: Sequence[PlannedStudent], only: Sequence[str]) -> set[str]:
    """Return the names that are meant, in which ``*`` stands for anything; none given: all.

    Raises:
        InputError: if a name fits no student.
    """
    names = [student.name for student in students]
    found = set() if only else set(names)
    for wanted in only:
        fitting = {name for name in names if name == wanted or fnmatchcase(name, wanted)}
        if not fitting:
            raise InputError(f"the sweep has no student '{wanted}': it has {'; '.join(names)}.")
        found |= fitting
    return found


def assign_ids(
    students: Sequence[PlannedStudent], indexed: Indexed, extracted: Extracted
) -> tuple[SweepStudent, ...]:
    """Find out the students' ids; those with the same one are one. Nothing is trained.

    Args:
        extracted: the caches that need no mapping.
    """
    found: dict[str, SweepStudent] = {}
    for student in students:
        config = student.config
        spec = mapping_spec(config, extracted.identity(), indexed.data, mapping_width(config))
        mapping = mapping_name(config, spec)
        tokens: tuple[str, ...] = ()
        if config.cache.keep_mapped:
            teacher = load_teacher(config.teacher, config.runtime.device)
            wanted = requested_tokens(config, teacher, mapping)
            tokens = tuple(want.spec.id for want in wanted)
        full = student_spec(config, replace(extracted, mapped_tokens=tokens), indexed, mapping)
        id = artifact_id(config, full)
        first = found.get(id, SweepStudent(student.name, student.variant, config, id, mapping))
        if first.name != student.name:
            first = replace(first, twins=(*first.twins, student.name))
        found[id] = first
    return tuple(found.values())
