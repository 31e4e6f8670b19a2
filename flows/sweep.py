"""The sweep: many students from one cache, each a task that can fail, and be repeated, alone.

What all students share is computed once, by the flows of the stages. What is done is read from the
records beside the data: the same sweep again trains what is missing, and goes on with what was
killed.
"""

import base64
import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_image_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.config.run import RunConfig, RuntimeConfig
from flows.config.sweep import DEFAULT_METRIC
from flows.distill import extract_flow, index_flow, map_flow, sharing
from flows.execution.slots import Slots, slots_of
from flows.execution.students import finish_in_process
from flows.experiments.leaderboard import leaderboard
from flows.experiments.plot import plot
from flows.experiments.record import PLOT, TABLE, Entry, entries_of, files_of, sweep_id, write_sweep
from flows.experiments.students import (
    PlannedStudent,
    SweepStudent,
    assign_ids,
    finish,
    plan_students,
    refuse_unlabelled,
    select_students,
)
from flows.experiments.table import artifact_rows, heading
from flows.failures import describe
from flows.orchestration.ray import (
    all_on_cluster,
    cluster_connection,
    most_per_machine,
    task_resources,
)
from flows.orchestration.reporter import PrefectReporter, if_heard
from flows.orchestration.retries import ENSURING, Opaque, all_of, error_of, with_retries
from flows.reporting.base import Broadcast, Prefixed, reporter, reporting_to
from flows.stages.pipeline import Pipeline
from flows.stages.results import to_ids
from storage.identity import slugify
from storage.root import Root
from tintem_core.errors import InputError, TintemError

FINISH = "flows.experiments.students:finish"


class SweepError(TintemError):
    """Some students of a sweep failed; the others are done."""

    def __init__(self, sweep: str, failed: Mapping[str, str], tried: int) -> None:
        self.sweep = sweep
        reasons = "; ".join(f"{name} ({reason.rstrip('.')})" for name, reason in failed.items())
        super().__init__(
            f"{len(failed)} of {tried} students failed: {reasons}. Everything that is done is "
            "kept: the same command tries these again, with --only NAME one of them alone."
        )


@flow(name="sweep", flow_run_name="sweep {config.data.name} from {config.teacher.name}")
def sweep(config: RunConfig, only: list[str] | None = None) -> str:
    """Train, evaluate and export every student of the sweep, and rank them.

    Args:
        config: the run, with its section ``sweep``.
        only: names of students, in which ``*`` stands for anything; none: all of them.

    Returns:
        The id of the sweep; below ``sweeps/`` lie its leaderboard and its plot.

    Raises:
        InputError: if a student cannot be built, or a name is none of the sweep's.
        SweepError: if some students failed; the others are done all the same.
    """
    asked = plan_students(config)
    names = select_students(asked, only or [])
    with with_retries(), _cluster(config):
        return _sweep(config, asked, names)


def _sweep(config: RunConfig, asked: Sequence[PlannedStudent], names: set[str]) -> str:
    base = Pipeline(asked[0].config)
    with sharing(base):
        index_flow(base.config)
        refuse_unlabelled(config, base.indexed.data)
        if not base.config.cache.keep_mapped:
            extract_flow(base.config)
    with _reporting():
        students = assign_ids(asked, base.indexed, base.extracted)
        for student in students:
            for twin in student.twins:
                reporter().note(f"{twin} is the same student as {student.name}: trained once")
    tried = [s for s in students if not names.isdisjoint((s.name, *s.twins))]
    entries = [Entry(s.name, s.variant, s.id) for s in students]
    id = sweep_id(config.data.name, entries)
    before = {entry.student: entry.failed for entry in entries_of(base.root, id)}
    at_once = _at_once(config)
    if not before:
        write_sweep(base.root, id, entries, at_once, {})
    evaluations, failed = _finish_all(config, base, tried)
    outcomes = {**before, **{s.id: failed.get(s.name) for s in tried}}
    entries = [replace(entry, failed=outcomes.get(entry.student)) for entry in entries]
    files, unranked = {}, None
    try:
        files = _ranked(base.root, config, [s.id for s in students], evaluations)
    except InputError as error:
        # The metric needs what the students that are done do not have.
        unranked = error
    # Where nothing was measured, what stands there still holds.
    write_sweep(base.root, id, entries, at_once, files or files_of(base.root, id))
    if failed:
        raise SweepError(id, failed, len(tried))
    if unranked is not None:
        raise unranked
    return id


@task(name="student", **ENSURING)
def student_task(
    name: str, work: Opaque[tuple[RunConfig, dict[str, Any], Slots | None]]
) -> dict[str, str]:
    """Finish one student; returns the ids of student, evaluation and export."""
    config, handed, where = work.content
    with reporting_to(Prefixed(name, Broadcast(reporter(), PrefectReporter()))):
        if where is None:
            return finish(config, handed)
        with where.one() as environment:
            return finish_in_process(FINISH, config, handed, environment)


def _finish_all(
    config: RunConfig, base: Pipeline, students: Sequence[SweepStudent]
) -> tuple[set[str], dict[str, str]]:
    """Fit the mappings and finish the students.

    Returns:
        The ids of the evaluations, and by name why some students failed.
    """
    handed: dict[str, dict[str, Any]] = {}
    evaluations: set[str] = set()
    failed: dict[str, str] = {}
    for student in students:
        if student.mapping not in handed and student.name not in failed:
            pipeline = Pipeline(student.config)
            pipeline.indexed, pipeline.extracted = base.indexed, base.extracted
            # Tokens that are kept mapped are stored once the mapping is there.
            stage = extract_flow if student.config.cache.keep_mapped else map_flow
            with sharing(pipeline):
                error = error_of(stage(student.config, return_state=True))
            if error is None:
                before = (pipeline.indexed, pipeline.all_caches, pipeline.mapped)
                handed[student.mapping] = to_ids(*before)
            else:
                same = (s.name for s in students if s.mapping == student.mapping)
                failed |= dict.fromkeys(same, describe(error))
    ready = [student for student in students if student.mapping in handed]
    for name, state in _ended(config, ready, handed):
        error = error_of(state)
        if error is None:
            evaluations.add(state.result()["evaluation"])
        else:
            failed[name] = describe(error)
    return evaluations, failed


def _ended(
    config: RunConfig, students: Sequence[SweepStudent], handed: Mapping[str, dict[str, Any]]
) -> Iterator[tuple[str, State[Any]]]:
    """Run the students' tasks, where the config says; yield each when it has ended."""

    def work(runtime: RuntimeConfig, where: Slots | None) -> dict[str, Opaque[Any]]:
        return {
            s.name: Opaque(
                (s.config.model_copy(update={"runtime": runtime}), handed[s.mapping], where)
            )
            for s in students
        }

    where = slots_of(config)
    if config.runtime.cluster is not None:
        with (
            task_resources(config) as runtime,
            reporter().track("Students", len(students), "students") as advance,
        ):
            for name, state in all_on_cluster(student_task, work(runtime, None)):
                advance(1)
                yield name, state
    elif where is not None:
        runner = ThreadPoolTaskRunner[Any](max_workers=where.count)
        yield from all_of(runner, student_task, work(config.runtime, where))
    else:
        for name, sealed in work(config.runtime, None).items():
            # Called, not submitted: in the main thread, which Ctrl-C ends at once.
            yield name, student_task(name, sealed, return_state=True)


def _at_once(config: RunConfig) -> int:
    """Return how many students run side by side on a machine, at most."""
    if config.runtime.cluster is not None:
        return most_per_machine(config)
    where = slots_of(config)
    return 1 if where is None else where.count


@contextlib.contextmanager
def _cluster(config: RunConfig) -> Iterator[None]:
    """Be connected to the config's cluster for as long as the sweep lasts, if there is one."""
    if config.runtime.cluster is None:
        yield
    else:
        with cluster_connection(config.runtime.cluster):
            yield


def _ranked(
    root: Root, config: RunConfig, students: Sequence[str], evaluations: set[str]
) -> dict[str, bytes]:
    """Publish leaderboard and plot as artifacts; return them as files."""
    metric = DEFAULT_METRIC if config.sweep is None else config.sweep.metric
    project = slugify(config.data.name)
    for group in leaderboard(root, metric, students).groups:
        # The same students may have been measured on photos of another day, too.
        if evaluations.isdisjoint(group.table["evaluation"]):
            continue
        picture, table = plot(group), io.BytesIO()
        group.table.write_parquet(table)
        about, shown = heading(group), base64.b64encode(picture).decode()
        with if_heard():
            create_table_artifact(
                artifact_rows(group), key=f"{project}-leaderboard", description=about
            )
            create_image_artifact(
                f"data:image/png;base64,{shown}",
                key=f"{project}-faithfulness-against-size",
                description=about,
            )
        return {PLOT: picture, TABLE: table.getvalue()}
    return {}


@contextlib.contextmanager
def _reporting() -> Iterator[None]:
    with reporting_to(Broadcast(reporter(), PrefectReporter())):
        yield
