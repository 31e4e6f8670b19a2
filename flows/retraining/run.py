"""The nightly loop: what is new, is it strange, train again, measure, promote or keep.

A night is an *ensure* like every stage: its id follows from tonight's photos, the settings, and
what is in force. It decides, records what it decided, and then brings it about; killed at any
moment, the same command goes on from there. Needs no Prefect: ``RetrainingRun(config).run()``.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.reporting.base import log, reporter
from flows.retraining.candidate import (
    incomparable,
    latest_pipeline,
    measured_for,
    prepare,
)
from flows.retraining.changes import (
    Changes,
    ModelLine,
    changes_of,
    open_lines,
    refuse_stored_teacher,
)
from flows.retraining.decision import Decision, Outcome, Trigger, describe_decision, trigger
from flows.retraining.drift import Scored, score_changes
from flows.retraining.gates import is_open, judge, refuse_unmeasured
from flows.retraining.history import DecisionHistory
from flows.retraining.promotion import model_of, promote_candidate
from flows.retraining.record import KIND, retraining_files, retraining_record, retraining_spec
from flows.stages.ensure import exclusive
from flows.stages.pipeline import Pipeline
from flows.stages.preflight import preflight
from storage.artifacts import read_record, write_artifact
from storage.errors import StorageError
from storage.identity import make_id, slugify
from storage.versions import Model
from tintem_core.errors import InputError, TintemError

T = TypeVar("T")


def is_mistake(error: Exception) -> bool:
    """Whether an error is one in the code: not raised on purpose, nor by the system."""
    return not isinstance(error, TintemError | StorageError | OSError)


class Engine(Protocol):
    """What runs the parts of a night."""

    def stage(self, name: str, pipeline: Pipeline, whose: str) -> None:
        """Run a stage of a run: index, extract, evaluate, or distill for all of them.

        Args:
            whose: name of the student or data, for a person.
        """

    def step(self, name: str, work: Callable[[], T]) -> T:
        """Run a part that is no stage."""


class PlainEngine:
    """One part after the other, in this process."""

    def stage(self, name: str, pipeline: Pipeline, whose: str) -> None:  # noqa: ARG002
        getattr(pipeline, _RESULTS[name])

    def step(self, name: str, work: Callable[[], T]) -> T:  # noqa: ARG002
        return work()


_RESULTS = {
    "index": "indexed",
    "extract": "all_caches",
    "evaluate": "evaluated",
    "distill": "exported",
}


@dataclass(frozen=True)
class RetrainingResult:
    """How a night ended."""

    outcome: Outcome
    says: str
    night: str | None = None
    """Its id, where there was anything to decide."""
    record: dict[str, Any] | None = None
    failures: tuple[Exception, ...] = ()


class Caches(Pipeline):
    """The night's own run: its caches serve every student, each of which maps tokens itself."""

    @cached_property
    def all_caches(self) -> Extracted:
        return self.extracted


class RetrainingRun:
    """One night of a run.

    Args:
        config: the run; its section ``nightly`` says what a night does.
        force: train again whatever is new.
        engine: what runs the parts.
    """

    def __init__(
        self, config: RunConfig, *, force: bool = False, engine: Engine | None = None
    ) -> None:
        self._config, self._force = config, force
        self._engine = engine or PlainEngine()
        self._pipeline = Caches(config)
        self.root = self._pipeline.root
        self.lines: list[str] = []
        """Of its students, once it has begun."""
        self._news: dict[str, Changes] = {}
        self._scored: dict[str, Scored] = {}

    def run(self) -> RetrainingResult:
        """Hold the night; of several at once, one works and the others wait.

        Raises:
            InputError: if the config asks for what its photos or models cannot give.
            StorageError: if what is in force cannot be read.
        """
        refuse_stored_teacher(self._config)
        with exclusive(self.root, f"{KIND}/{slugify(self._config.data.name)}") as confirm:
            self._engine.stage("index", self._pipeline, self._config.data.name)
            lines = self._open()
            if not self._force and all(self._knows_all(line) for line in lines):
                return RetrainingResult("nothing new", self._nothing_new(lines))
            spec = retraining_spec(self._config, self._pipeline.indexed, lines, self._force)
            night = make_id(self._config.data.name, spec)
            record = read_record(self.root, KIND, night)
            if record is not None and record["outcome"] != "failed":
                return self._decided_before(night, record)

            decisions = self._decide(lines, DecisionHistory(self.root, night, spec))
            record = retraining_record(
                spec, self._pipeline.indexed, lines, self._news, self._scored, decisions
            )
            confirm()
            self._engine.step("report", lambda: self._store(night, record, lines))
            failures = [d.error for d in decisions.values() if d.error is not None]
            failures += self._bring_about(record)
            return RetrainingResult(
                record["outcome"], record["says"], night, record, tuple(failures)
            )

    def _open(self) -> list[ModelLine]:
        lines, data = open_lines(self._config, self.root), self._pipeline.indexed.data
        self.lines = [line.id for line in lines]
        for line in lines:
            refuse_unmeasured(line.config.nightly.gates, data, self._pipeline.indexed.ood)
            self._news[line.id] = changes_of(self.root, line.latest, data)
        return lines

    def _knows_all(self, line: ModelLine) -> bool:
        return line.latest is not None and not self._news[line.id].new.keys()

    def _nothing_new(self, lines: list[ModelLine]) -> str:
        photos = len(self._pipeline.indexed.data.keys())
        said = f"nothing new: the latest knows all {photos:,} photos of {self._config.data.name}"
        said += max((self._news[line.id] for line in lines), key=lambda news: news.gone).aside
        if changed := sorted({name for line in lines for name in line.changed}):
            said += f"; other settings than then ({', '.join(changed)}) wait for --force"
        return said

    def _decided_before(self, night: str, record: dict[str, Any]) -> RetrainingResult:
        """End as the night did that met the same; what it left to be done is done now."""
        failures = tuple(self._bring_about(record))
        if record["outcome"] == "promoted":
            return RetrainingResult("promoted", record["says"], night, record, failures)
        return RetrainingResult(
            "nothing new", f"nothing new since night {night}: {record['says']}", night
        )

    def _decide(self, lines: list[ModelLine], past: DecisionHistory) -> dict[str, Decision]:
        refused = self._refused(lines)
        self._engine.stage("extract", self._pipeline, self._config.data.name)
        decisions = {}
        with tempfile.TemporaryDirectory() as folder:
            for line in lines:
                if error := refused.get(line.id):
                    decision = Decision(outcome="failed", why=str(error), error=error)
                else:
                    decision = self._decide_on(line, past, Path(folder))
                if len(lines) > 1:
                    reporter().note(describe_decision(line, decision))
                decisions[line.id] = decision
        return decisions

    def _refused(self, lines: list[ModelLine]) -> dict[str, Exception]:
        """Find out which students can never be made, before anything is computed.

        Raises:
            InputError: if none can.
        """
        refused: dict[str, Exception] = {}
        for line in lines:
            try:
                preflight(line.config)
            except InputError as error:
                refused[line.id] = error
        if len(refused) == len(lines):
            raise refused[lines[0].id]
        return refused

    def _decide_on(self, line: ModelLine, past: DecisionHistory, folder: Path) -> Decision:
        try:
            if past.has_promoted(line) or (self._knows_all(line) and not self._force):
                return Decision(outcome="nothing new", why="")
            news, before = past.decided(line, self._news[line.id])
            self._news[line.id] = news
            found = trigger(line.config.nightly, news, self._score(news), self._force)
            if found.reasons:
                return self._train(line, found, past.night, folder)
            if not news.new.keys():
                return Decision(outcome="kept", why="; ".join(before), trigger=found)
            why = "; ".join((*found.otherwise, *before)) or "nothing makes it train again"
            return Decision(outcome="waiting", why=why, trigger=found)
        except Exception as error:  # noqa: BLE001  # one student must not stop the others
            if is_mistake(error):
                log.exception("%s failed", line.name)
            what = str(error) or type(error).__name__
            return Decision(outcome="failed", why=what, error=error)

    def _score(self, news: Changes) -> Scored | None:
        """Score what is new to a student; once for all to which the same photos are known."""
        if news.known is None:
            return None
        if news.against not in self._scored:
            extracted = self._pipeline.extracted
            self._scored[news.against] = self._engine.step(
                "drift", lambda: score_changes(self._config, self.root, extracted, news)
            )
        return self._scored[news.against]

    def _train(self, line: ModelLine, found: Trigger, night: str, folder: Path) -> Decision:
        news, latest = self._news[line.id], line.latest
        tonight = prepare(self._pipeline, line, news, folder)
        pipeline = tonight.pipeline
        self._engine.stage("distill", pipeline, line.name)
        student = pipeline.trained.id
        made: dict[str, Any] = {
            "trigger": found,
            "student": student,
            "export": pipeline.exported.id,
            "mapping": tonight.mapping,
            "warm_start": tonight.warm_start,
            "metrics": measured_for(line.config.nightly.gates, pipeline, latest),
        }
        if latest is not None and student == latest.model.student:
            return Decision(outcome="kept", why="tonight's student is the same once more", **made)
        if (turned_away := line.turned_away(student)) is not None:
            return Decision(outcome="kept", why=turned_away, **made)

        alone = incomparable(line, news)
        if latest is not None and not alone:
            before = latest_pipeline(self._pipeline, line.config, latest.model)
            self._engine.stage("evaluate", before, f"{line.name} in force")
            made["latest_metrics"] = before.evaluated.record["metrics"]
        gates = line.config.nightly.gates
        verdicts = judge(gates, made["metrics"], made.get("latest_metrics"), alone)
        made["gates"] = tuple(verdicts)
        if not is_open(verdicts):
            failed = "; ".join(verdict.why for verdict in verdicts if verdict.passed is False)
            return Decision(outcome="kept", why=f"{student} did not pass: {failed}", **made)
        model = model_of(line, pipeline, night)
        return Decision(outcome="promoted", why="; ".join(found.reasons), model=model, **made)

    def _store(self, night: str, record: Mapping[str, Any], lines: list[ModelLine]) -> None:
        data, shown = self._pipeline.indexed.data, self._config.nightly.shown
        files = retraining_files(night, record, data, lines, self._news, self._scored, shown)
        write_artifact(self.root, KIND, night, files, dict(record))

    def _bring_about(self, record: Mapping[str, Any]) -> list[Exception]:
        """Promote what was decided; one that cannot be must not stop the others."""
        failures: list[Exception] = []
        for line, decided in record["lines"].items():
            if decided["model"] is None:
                continue
            model, over = Model(**decided["model"]), (decided["latest"] or {}).get("number")
            bring = partial(promote_candidate, self.root, line, model, decided["why"], over)
            try:
                self._engine.step("promote", bring)
            except StorageError as error:
                failures.append(error)
        return failures
