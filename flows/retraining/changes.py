"""What is new tonight, against what a line of students has decided on."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from flows.config.run import RunConfig
from flows.config.variants import RetrainedStudent, retrained_students
from flows.data.code import python_identity
from flows.data.dataset import Dataset
from flows.data.weights import files_digest
from flows.stages.models import load_teacher
from storage.errors import CorruptRecordError, MissingObjectError
from storage.identity import file_digest
from storage.images import Manifest
from storage.registry import history, rejected, sync_pointer
from storage.root import Root
from storage.versions import Version
from tintem_core.errors import InputError
from tintem_core.models.config import TeacherConfig

TEACHERS = ("teacher", "other_teachers")
# Were always written down.
_NULLABLE = ("stages", "weights")


@dataclass(frozen=True)
class ModelLine:
    """A student of the night, with what has been in force of it."""

    student: RetrainedStudent
    entries: list[Version]
    """All that ever came into force, oldest first."""

    @property
    def id(self) -> str:
        return self.student.line

    @property
    def name(self) -> str:
        return self.student.name

    @property
    def config(self) -> RunConfig:
        return self.student.config

    @property
    def latest(self) -> Version | None:
        return self.entries[-1] if self.entries else None

    def turned_away(self, student: str) -> str | None:
        """Say that a student was rolled back, and how to take it after all; None if it was not."""
        by = rejected(self.entries).get(student)
        if by is None:
            return None
        number = max(e.number for e in self.entries if e.model.student == student)
        return (
            f"{student} was rolled back on {by.since[:10]} and does not come back by itself: "
            f"`tintem rollback CONFIG.yaml --to {number}` takes it again"
        )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What its next student is made with; see :func:`settings_of`."""
        return settings_of(self.config)

    @cached_property
    def changed(self) -> list[str]:
        """The settings that differ from those of the latest."""
        return [] if self.latest is None else differing(self.latest.model.settings, self.settings)


def refuse_stored_teacher(config: RunConfig) -> None:
    """Raises InputError where nobody could say anything of new photos."""
    for teacher in config.teachers:
        if teacher.latents is not None:
            raise InputError(
                f"teacher.latents: a night embeds new photos, which the file {teacher.latents} "
                "cannot: name a model, or embed them yourself, add them to the file, and run "
                "`tintem run CONFIG.yaml`."
            )


def open_lines(config: RunConfig, root: Root) -> list[ModelLine]:
    """Return the night's students with their latest; finish what a crash left of a promotion."""
    lines = []
    for student in retrained_students(config):
        sync_pointer(root, student.line)
        lines.append(ModelLine(student, history(root, student.line)))
    return lines


@dataclass(frozen=True)
class Changes:
    """Tonight's photos against those that a student's line has decided on."""

    reference: Dataset | None
    """All that the latest learned from and was tested on; None where there is no latest."""
    data: Dataset
    decided: tuple[Dataset, ...] = ()
    """The same of students that are not to be in force; see :mod:`flows.retraining.history`."""

    @property
    def against(self) -> str:
        """Names what is known; empty where nothing is."""
        return " ".join(dataset.manifest.id for dataset in self._all_known)

    @cached_property
    def known(self) -> Dataset | None:
        """All photos decided on, with their splits; None where there are none."""
        if not self._all_known:
            return None
        tables = [dataset.manifest.table for dataset in self._all_known]
        table = pl.concat(tables).unique("key", keep="first", maintain_order=True)
        first = self._all_known[0]
        return replace(first, manifest=replace(first.manifest, table=table))

    @property
    def _all_known(self) -> tuple[Dataset, ...]:
        return self.decided if self.reference is None else (self.reference, *self.decided)

    @cached_property
    def new(self) -> Dataset:
        """The photos that were not there, in both splits; one saved anew was there."""
        return self.data if self.known is None else self.data.without_photos_of(self.known)

    @cached_property
    def saved_anew(self) -> int:
        """How many photos are other files of the pixels of a known one."""
        if self.known is None:
            return 0
        return len(self.data.without(self.known.keys()).keys()) - len(self.new.keys())

    @cached_property
    def gone(self) -> int:
        """How many of the latest's photos are not there any more."""
        if self.reference is None:
            return 0
        return len(self.reference.without_photos_of(self.data).keys())

    @property
    def aside(self) -> str:
        """Say what has changed and is no news."""
        said = f" ({self.gone:,} more are gone)" if self.gone else ""
        if self.saved_anew:
            said += f"; {self.saved_anew:,} are saved anew, with the same pixels"
        return said

    @property
    def growth(self) -> float:
        """New training photos as a share of those decided on; infinite where there are none."""
        if self.known is None:
            return float("inf")
        return len(self.new.keys("train")) / len(self.known.keys("train"))

    @cached_property
    def learned_and_tested(self) -> int:
        """How many of tonight's test photos the latest learned from: other splits than then."""
        if self.reference is None:
            return 0
        learned, tested = self.reference.of_split("train"), self.data.of_split("test")
        return len(tested.keys()) - len(tested.without_photos_of(learned).keys())

    def as_record(self) -> dict[str, Any]:
        latest = 0 if self.reference is None else len(self.reference.keys())
        return {
            "new": len(self.new.keys()),
            "new_train": len(self.new.keys("train")),
            "new_test": len(self.new.keys("test")),
            "known": latest,
            "known_train": 0 if self.reference is None else len(self.reference.keys("train")),
            "decided": 0 if self.known is None else len(self.known.keys()) - latest,
            "gone": self.gone,
            **({"saved_anew": self.saved_anew} if self.saved_anew else {}),
            "growth": None if self.known is None else self.growth,
        }


def changes_of(root: Root, latest: Version | None, data: Dataset) -> Changes:
    """Compare tonight's photos with those of the latest.

    Raises:
        InputError: if the latest learned from data of another name.
        CorruptRecordError, MissingObjectError: if the list of the latest's photos is damaged.
    """
    if latest is None:
        return Changes(None, data)
    whose = f"the latest, {latest.model.student}, learned from"
    reference = photos_of(root, latest.model.reference["manifest"], whose)
    if reference.name != data.name:
        raise InputError(
            f"data.name: the latest of {latest.name} below {root.url} learned from "
            f"'{reference.name}', not from '{data.name}', whose line has the same "
            "name: give the data or the student another one, or the run another root."
        )
    return Changes(reference, data)


def photos_of(root: Root, manifest: str, whose: str) -> Dataset:
    """Load a list of photos that a line has decided on.

    Raises:
        CorruptRecordError, MissingObjectError: if it is damaged; the sentence says ``whose`` it is.
    """
    try:
        return Dataset(Manifest.load(root, manifest), root.reading)
    except (MissingObjectError, CorruptRecordError) as error:
        raise type(error)(
            f"{error} It lists the photos that {whose}: "
            "bring it back, or give the student another name, which starts a line of its own."
        ) from error


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Return what a student is made with, apart from photos and mapping; bytes count, not paths."""
    settings: dict[str, Any] = config.model_dump(
        mode="json",
        include={
            "cache": {"dtype", "tokens", "keep_mapped"},
            **dict.fromkeys(("views", "mapping", "student", "training"), True),
            **dict.fromkeys(TEACHERS, True),
        },
    )
    teachers = [settings["teacher"], *settings["other_teachers"]]
    for section, teacher in zip(teachers, config.teachers, strict=True):
        section |= _teacher_settings(teacher, config.runtime.device)
        section.pop("batch_size")
    student = settings["student"]
    student |= {config.student.kind: config.student.name, **python_identity(config.student)}
    if (path := Path(student["weights"] or "")).is_file():
        student["weights"] = file_digest(path)
    for section in (*teachers, student):
        # What other kinds of models have: settings of before these existed are the same.
        for name in [n for n, value in section.items() if value is None and n not in _NULLABLE]:
            del section[name]
    return settings


def _teacher_settings(config: TeacherConfig, device: str) -> dict[str, Any]:
    """Return what stands for a teacher's files: their bytes count, not their names."""
    if config.kind == "python":
        # What its function loads only shows in what it returns.
        teacher = load_teacher(config, device)
        return {"python": config.name, "weights": teacher.digest, **python_identity(config)}
    try:
        found = files_digest(config)
    except InputError:
        # The run itself says so.
        found = None
    place = "weights" if config.kind == "model" else config.kind
    return {} if found is None else {place: found}


def differing(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Name what differs, such as ``training.epochs``."""
    names = []
    for key in sorted({*before, *now}):
        was, is_now = before.get(key), now.get(key)
        if isinstance(was, dict) and isinstance(is_now, dict):
            names += differing(was, is_now, f"{prefix}{key}.")
        elif was != is_now:
            names.append(f"{prefix}{key}")
    return names
