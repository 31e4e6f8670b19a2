"""The nightly flow: what is new, is it strange, train again, measure, promote or keep.

What a night decides, and why, is read from its record, never from Prefect; a gate that keeps the
latest has done its work, so that night is completed like any other, and its state says so.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.config.run import RunConfig
from flows.distill import STAGES, distill, sharing
from flows.failures import may_pass
from flows.orchestration.reporter import PrefectReporter, if_heard
from flows.orchestration.retraining_artifact import publish_retraining
from flows.orchestration.retries import with_retries
from flows.reporting.base import Broadcast, Reporter, reporter, reporting_to
from flows.retraining.decision import Outcome
from flows.retraining.record import KIND, REPORT
from flows.retraining.run import RetrainingResult, RetrainingRun, is_mistake
from flows.stages.pipeline import Pipeline
from storage.errors import StorageInputError
from storage.registry import current_version
from tintem_core.errors import InputError, TintemError

T = TypeVar("T")


class PrefectEngine:
    """Runs the stages of a night as subflows, everything else as tasks.

    Args:
        beyond: who else listens; each subflow reports to its own run besides.
    """

    def __init__(self, beyond: Reporter) -> None:
        self._beyond = beyond

    def stage(self, name: str, pipeline: Pipeline, whose: str) -> None:
        stage: Any = distill if name == "distill" else STAGES[name]
        named = stage.with_options(flow_run_name=lambda: f"{name} {whose}")
        with reporting_to(self._beyond), sharing(pipeline):
            named(pipeline.config)

    def step(self, name: str, work: Callable[[], T]) -> T:
        @task(name=name, task_run_name=name, cache_policy=NO_CACHE)
        def part() -> T:
            return work()

        with reporting_to(Broadcast(self._beyond, PrefectReporter())):
            return part()


@flow(name="nightly", flow_run_name="nightly {config.data.name}")
def nightly(config: RunConfig, force: bool = False) -> dict[str, Any]:
    """Hold a night: embed what is new, score its drift, train, measure and promote when warranted.

    Args:
        config: the run; its section ``nightly`` holds the thresholds and gates.
        force: train again whatever is new.

    Returns:
        How it ended: outcome, says, night (its id or None), report (where it lies, or None), and
        latest: by line, which entry is in force.
    """
    beyond = reporter()
    with reporting_to(Broadcast(beyond, PrefectReporter())), with_retries():
        night = RetrainingRun(config, force=force, engine=PrefectEngine(beyond))
        ended = night.run()
        PrefectReporter().note(ended.says)
        if ended.record is not None:
            with if_heard():
                publish_retraining(night.root, ended)
        result = _result(night, ended)
        # A night goes on after a failure, so that what may pass is only told to Prefect here.
        _raise_failures(ended, result["report"])
    if flow_run.run_count > 1:
        # Prefect raises the error of an earlier attempt where a later one returns a state.
        return result
    state: State[dict[str, Any]] = Completed(
        name=state_name(ended.outcome), message=ended.says, data=result
    )
    # Prefect makes a state that is returned the run's own, and gives its data to the caller.
    return cast("dict[str, Any]", state)


def state_name(outcome: Outcome) -> str:
    """Return what a night's last state is called; Prefect names the event of its end after it."""
    return outcome.capitalize()


def _result(night: RetrainingRun, ended: RetrainingResult) -> dict[str, Any]:
    latest = {line: current_version(night.root, line) for line in night.lines}
    report = None if ended.night is None else f"{night.root.url}/{KIND}/{ended.night}/{REPORT}"
    return {
        "outcome": ended.outcome,
        "says": ended.says,
        "night": ended.night,
        "report": report,
        "latest": {
            line: {
                "entry": entry.number,
                "student": entry.model.student,
                "onnx": f"{night.root.url}/{entry.model.onnx}",
                "since": entry.since,
            }
            for line, entry in latest.items()
            if entry is not None
        },
    }


def _raise_failures(ended: RetrainingResult, report: str | None) -> None:
    """Let the run fail after all students had their turn, if one of them did.

    Raises:
        Exception: a mistake in the code, as it was; InputError: if all failures are the user's;
            TintemError: for other failures raised on purpose. Its cause is a failure that may pass,
            if there is one.
    """
    if not ended.failures:
        return
    for failure in ended.failures:
        if is_mistake(failure):
            raise failure
    is_input = all(isinstance(f, InputError | StorageInputError) for f in ended.failures)
    said = "; ".join([ended.says, *_unsaid(ended)])
    passing = next(filter(may_pass, ended.failures), None)
    raise (InputError if is_input else TintemError)(f"{said} (report: {report})") from passing


def _unsaid(ended: RetrainingResult) -> list[str]:
    """Return the failures that came after the record, in bringing about what it decided."""
    return [str(f) for f in ended.failures if str(f) not in ended.says]
