"""A finished student that a person chooses: found by its id, judged as a night judges its own."""

from dataclasses import dataclass
from typing import Any

from flows.config.run import RunConfig
from flows.config.variants import RetrainedStudent, retrained_students
from flows.retraining.candidate import incomparable, latest_pipeline, measured_for
from flows.retraining.changes import ModelLine, changes_of, differing
from flows.retraining.gates import Verdict, judge, refuse_unmeasured
from flows.retraining.promotion import model_of, promote_candidate
from flows.stages.ids import (
    mapping_name,
    mapping_spec,
    mapping_width,
    student_spec,
)
from flows.stages.pipeline import Pipeline
from flows.stages.results import Mapped, Trained
from flows.stages.stored import find_results, stored_features, stored_run
from storage.artifacts import read_record
from storage.registry import history, sync_pointer
from storage.versions import Version
from tintem_core.errors import InputError, TintemError
from tintem_core.mapping.config import MappingConfig
from tintem_core.models.config import StudentConfig
from tintem_core.training.config import TrainingConfig


class GateError(TintemError):
    """A gate keeps a student from coming into force."""


@dataclass(frozen=True)
class Chosen:
    """A finished student, and what the gates of a line say of it."""

    line: ModelLine
    """With the settings that the student was made with."""
    pipeline: Pipeline
    verdicts: tuple[Verdict, ...]
    """Empty where the student is in force."""
    differing: tuple[str, ...]
    """Settings in which it differs from what a night trains, such as ``training.epochs``."""

    @property
    def student(self) -> str:
        return self.pipeline.trained.id

    @property
    def is_in_force(self) -> bool:
        return self.line.latest is not None and self.line.latest.model.student == self.student

    def bring_into_force(self, force: str | None = None) -> Version:
        """Make it the latest of its line.

        Args:
            force: why it comes into force whatever the gates say; None: it does not.

        Raises:
            GateError: if a gate is closed.
            LatestChangedError: if another student came into force meanwhile.
            StorageInputError: if the model's file is missing.
        """
        closed = "; ".join(verdict.why for verdict in self.verdicts if verdict.passed is False)
        if closed and force is None:
            raise GateError(
                f'{self.student} does not come into force: {closed}. `--force "WHY"` brings it '
                "into force all the same, and records why."
            )
        why = "chosen by hand" + (f": {force}" if force else "")
        if closed:
            why += f" (although {closed})"
        over = None if self.line.latest is None else self.line.latest.number
        model = model_of(self.line, self.pipeline, None)
        return promote_candidate(self.pipeline.root, self.line.id, model, why, over)


def choose(config: RunConfig, student: str | None = None, line: str | None = None) -> Chosen:
    """Find a student with its evaluation and export, and hold it against the gates.

    The student in force is measured on the same photos, as last indexed, if it was not yet.

    Args:
        config: the run; its nights have the lines and the gates.
        student: an id; None: that of the run's own student.
        line: the night's student whose place it takes, by name; None: the only one.

    Raises:
        InputError: if something of it is not there, or its numbers do not compare.
        MissingObjectError: if the student in force is gone.
    """
    place = _place(config, line)
    run = stored_run(place.config) if student is None else stored_student(place.config, student)
    sync_pointer(run.root, place.line)
    entries = history(run.root, place.line)
    chosen = ModelLine(RetrainedStudent(place.name, place.line, run.config), entries)
    others = tuple(differing(ModelLine(place, entries).settings, chosen.settings))
    found = Chosen(chosen, run, (), others)
    if found.is_in_force:
        return found
    gates = place.config.nightly.gates
    refuse_unmeasured(gates, run.indexed.data, run.indexed.ood)
    alone = incomparable(chosen, changes_of(run.root, chosen.latest, run.indexed.data))
    before = None
    if chosen.latest is not None and not alone:
        measured = latest_pipeline(run, place.config, chosen.latest.model)
        before = measured.evaluated.record["metrics"]
    metrics = measured_for(gates, run, chosen.latest)
    verdicts = judge(gates, metrics, before, alone)
    return Chosen(chosen, run, tuple(verdicts), others)


def _place(config: RunConfig, line: str | None) -> RetrainedStudent:
    places = retrained_students(config)
    names = ", ".join(place.name for place in places)
    if line is None and len(places) > 1:
        raise InputError(
            f"nightly.students has several students: say with --line whose place it takes, one "
            f"of {names}."
        )
    for place in places:
        if line in (None, place.name, place.line):
            return place
    raise InputError(f"nightly.students has no student '{line}': its students are {names}.")


def stored_student(config: RunConfig, student: str) -> Pipeline:
    """Return the run of a student as its own record describes it, whatever the config says.

    Raises:
        InputError: if it is not there, or not finished, or learnt from other features or photos.
    """
    made = "run" if config.sweep is None else "sweep"
    cure = f"`tintem {made}` with the config that describes it makes what is missing."
    run = stored_features(config)
    record = read_record(run.root, "students", student)
    if record is None:
        begun = "is not finished" if run.root.list(f"students/{student}") else "is not there"
        raise InputError(
            f"the student {student} {begun} below {run.root.url}: `tintem status` lists the "
            f"finished ones, and {cure}"
        )
    spec, latents, data = record["spec"], run.extracted.identity(), run.indexed.data
    if {name: spec[name] for name in latents} != latents:
        raise InputError(
            f"{student} learned from features of other teachers or views than this config's, so "
            "its numbers do not compare: give the config that describes it."
        )
    if spec["images"] not in (data.digest("train"), data.digest("train", labels=True)):
        raise InputError(
            f"{student} learned from other photos than {data.name} had when it was last indexed, "
            "so its numbers do not compare: `tintem nightly CONFIG.yaml --force` trains on these."
        )
    run.config = _as_recorded(config, run, spec)
    id = spec["mapping"]
    if isinstance(id, dict):
        # A baseline has nothing of a mapping but the width: it stands beside the config's.
        wanted = mapping_spec(run.config, latents, data, id["width"])
        id = mapping_name(run.config, wanted)
    mapping = read_record(run.root, "mappings", id)
    if mapping is None:
        raise InputError(f"{run.root.url} holds no mappings/{id}, of {student}: {cure}")
    run.config = _with_mapping(run.config, mapping["spec"], len(data.keys("train")))
    run.mapped = Mapped(id=id, record=mapping, reused=True)
    run.trained = Trained(id=student, record=record, reused=True)
    find_results(run, cure)
    return run


def _as_recorded(config: RunConfig, run: Pipeline, spec: dict[str, Any]) -> RunConfig:
    """Return the config with a student's own settings; its own sections where they are the same."""
    now = student_spec(config, run.extracted, run.indexed, "")
    changed: dict[str, Any] = {}
    if spec["student"] != now["student"]:
        if "python" in spec["student"]:
            raise InputError(
                f"{config.student.name}: the student is a function, or code, that this config "
                "does not name: give the config that describes it."
            )
        fields = StudentConfig.model_fields
        known = {name: value for name, value in spec["student"].items() if name in fields}
        if known["pretrained"]:
            known["weights"] = None
        changed["student"] = StudentConfig.model_validate(known)
    if spec["training"] != now["training"]:
        changed["training"] = _recipe(config, spec["training"])
    return config.model_copy(update=changed)


def _recipe(config: RunConfig, recorded: dict[str, Any]) -> TrainingConfig:
    """Return a recorded recipe; what it leaves out is the config's where that changes nothing."""
    count = config.views.count
    views = None if recorded["views"] == count else recorded["views"]
    found = TrainingConfig.model_validate(
        {**config.training.model_dump(), **recorded, "views": views}
    )
    # A record leaves these out where they are 0.
    new = ("evaluation_view", "support", "centred_weight")
    absent = {name for name in new if name in found.identity(count).keys() - recorded.keys()}
    return found.model_copy(update=dict.fromkeys(absent, 0.0))


def _with_mapping(config: RunConfig, spec: dict[str, Any], images: int) -> RunConfig:
    """Return the config with the settings of a stored mapping, where these are others."""
    rows, tokens = config.views.count * images, config.cache.full_tokens
    now = config.mapping.identity(rows, tokens=tokens), mapping_width(config)
    if now == (spec["mapping"], spec["width"]):
        return config
    mapping = MappingConfig.model_validate({**spec["mapping"], "width": spec["width"]})
    return config.model_copy(update={"mapping": mapping})
