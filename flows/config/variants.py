"""Runs that differ from one config in a few settings, and the students that a night retrains."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.config.retraining import NAME
from flows.config.run import RunConfig
from flows.config.validation import validated
from storage.identity import distinct_slug
from tintem_core.errors import InputError
from tintem_core.models.config import StudentConfig


@dataclass(frozen=True)
class RetrainedStudent:
    """One of the students that a night keeps up to date."""

    name: str
    line: str
    """What its versions are kept under: follows from the student's and the data's name."""
    config: RunConfig
    """The run that makes it."""


def retrained_students(config: RunConfig) -> list[RetrainedStudent]:
    """Return the students of a night, as if each had a config file of its own.

    Raises:
        InputError: if settings are none of a run, or two students would share a line.
    """
    nightly = config.nightly
    if not nightly.students:
        return [_student(config.student.name, config)]
    found: dict[str, RetrainedStudent] = {}
    for place, settings in enumerate(nightly.students):
        given = {key: value for key, value in settings.items() if key != NAME}
        alone = {**given, "nightly.students": []}
        run = variant(config, alone, f"nightly.students[{place}]")
        student = _student(settings.get(NAME) or run.student.name, run)
        if student.line in found:
            raise _shared(found[student.line], student)
        found[student.line] = student
    return list(found.values())


def _student(name: str, config: RunConfig) -> RetrainedStudent:
    return RetrainedStudent(name, distinct_slug(f"{name}-{config.data.name}"), config)


def _shared(one: RetrainedStudent, other: RetrainedStudent) -> InputError:
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


def variant(config: RunConfig, settings: Mapping[str, Any], where: str = "settings") -> RunConfig:
    """Return the config with some settings changed, as if the YAML file had said so.

    Args:
        config: the run to start from.
        settings: new values by dotted name, such as ``{"student.model": "vit_tiny_patch16_224"}``;
            a mapping as value replaces only the settings that it names.
        where: what an error calls the place of these settings.

    Raises:
        InputError: if a name or a value is none of a run.
    """
    # What the config leaves out stays out, so that defaults may depend on what is set.
    content = config.model_dump(mode="json", exclude_unset=True)
    for name, value in settings.items():
        *path, last = name.split(".")
        section = content
        for part in path:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise InputError(f"{where}: '{name}' is not a setting of a run.")
        if isinstance(value, Mapping) and isinstance(section.get(last), dict):
            section[last] = {**section[last], **value}
        else:
            section[last] = value
        if path == ["student"] and last in StudentConfig.kinds:
            for kind in StudentConfig.kinds:
                if kind != last:
                    section.pop(kind, None)
    return validated(content, where)
