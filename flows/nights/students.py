"""The students of a night: each a run of its own, with a line of successive versions."""

from dataclasses import dataclass

from flows.config import RunConfig
from flows.nights.config import NAME
from flows.stages.metrics import closest_first, metrics_of
from flows.variants import variant
from storage.identity import distinct_slug
from tintem_core.errors import InputError


@dataclass(frozen=True)
class NightStudent:
    """One of the students that a night keeps up to date."""

    name: str
    line: str
    """What its versions are kept under: follows from the student's and the data's name."""
    config: RunConfig
    """The run that makes it."""


def night_students(config: RunConfig) -> list[NightStudent]:
    """Return the students of a night, as if each had a config file of its own.

    Raises:
        InputError: if settings are none of a run, or two students would share a line.
    """
    nightly = config.nightly
    if not nightly.students:
        return [_student(config.student.model, config)]
    found: dict[str, NightStudent] = {}
    for place, settings in enumerate(nightly.students):
        given = {key: value for key, value in settings.items() if key != NAME}
        alone = {**given, "nightly.students": []}
        run = variant(config, alone, f"nightly.students[{place}]")
        student = _student(settings.get(NAME) or run.student.model, run)
        if student.line in found:
            raise _shared(found[student.line], student)
        found[student.line] = student
    return list(found.values())


def check_nightly(config: RunConfig) -> None:
    """Refuse a nightly section that could only fail in the night.

    Raises:
        InputError: if students or gates are none that a run can have.
    """
    for student in night_students(config):
        # A variant has checked itself when it was made.
        if student.config is config:
            _check_mapping(student)
            _check_gates(student)


def _student(name: str, config: RunConfig) -> NightStudent:
    return NightStudent(name, distinct_slug(f"{name}-{config.data.name}"), config)


def _shared(one: NightStudent, other: NightStudent) -> InputError:
    if one.name == other.name:
        said = f"two students are named '{one.name}': give each its own name."
    else:
        said = (
            f"the versions of '{one.name}' and '{other.name}' would both be kept under "
            f"latest/{one.line}: give one of them a name that differs in letters or digits."
        )
    return InputError(f"nightly.students: {said}")


def keeps_mapping(config: RunConfig) -> bool:
    """Whether a run's next student is trained against the latest one's mapping."""
    return config.nightly.keep_mapping and config.mapping.fit == "once"


def _check_mapping(student: NightStudent) -> None:
    nightly, run = student.config.nightly, student.config
    if nightly.warm_start and not keeps_mapping(run):
        raise InputError(
            f"nightly.warm_start: {student.name} fits its mapping while it learns (mapping.fit "
            "joint), so the latest's weights would answer to another one: set warm_start to false."
        )
    if run.cache.keep_mapped and not nightly.keep_mapping:
        raise InputError(
            "nightly.keep_mapping is false, but cache.keep_mapped stores tokens through the "
            "mapping: every night that trains would embed all of them again. Set one of them to "
            "the other's value."
        )


def _check_gates(student: NightStudent) -> None:
    known = metrics_of(student.config)
    for place, gate in enumerate(student.config.nightly.gates):
        if gate.metric not in known:
            raise InputError(
                f"nightly.gates[{place}]: '{gate.metric}' is not measured for {student.name} "
                f"(known, closest first: {', '.join(closest_first(known, gate.metric))})."
            )
