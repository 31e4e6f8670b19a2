"""The Prefect flows: one per stage, and `distill`, which runs them all.

A stage flow can be deployed alone: it makes sure that the stages before it are done. What is done
is read from the records beside the data, never from Prefect.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from prefect import flow
from prefect.artifacts import create_table_artifact

from flows.config import RunConfig
from flows.prefect_reporting import PrefectReporter
from flows.reporting import Broadcast, reporter, reporting_to
from flows.stages.pipeline import Pipeline
from flows.summary import Row, summary_rows

_SHARED: ContextVar[Pipeline | None] = ContextVar("shared_pipeline", default=None)


@contextlib.contextmanager
def sharing(pipeline: Pipeline) -> Iterator[None]:
    """Let every flow called inside the block work on one pipeline, so that nothing is redone."""
    token = _SHARED.set(pipeline)
    try:
        yield
    finally:
        _SHARED.reset(token)


@contextlib.contextmanager
def _pipeline(config: RunConfig) -> Iterator[Pipeline]:
    """Use the shared pipeline, or a new one when a stage runs alone; report to Prefect too."""
    pipeline = _SHARED.get() or Pipeline(config)
    with reporting_to(Broadcast(reporter(), PrefectReporter())):
        yield pipeline


@flow(name="index", flow_run_name="index {config.data.name}")
def index_flow(config: RunConfig) -> dict[str, int]:
    """List the images; returns the number of photos per dataset."""
    with _pipeline(config) as pipeline:
        return {d.name: len(d.keys()) for d in pipeline.indexed.datasets()}


@flow(name="extract", flow_run_name="extract {config.data.name} {config.teacher.model}")
def extract_flow(config: RunConfig) -> list[str]:
    """Embed all views with the teacher; returns the ids of the feature caches.

    With cache.keep_mapped the mapping is fitted on the way, as tokens are stored through it.
    """
    with _pipeline(config) as pipeline:
        stored = pipeline.stored
        mapped = [] if stored.mapped_tokens is None else [stored.mapped_tokens]
        return [stored.views, *stored.evaluation.values(), *mapped]


@flow(name="map", flow_run_name="map {config.data.name}")
def map_flow(config: RunConfig) -> str:
    """Fit the mapping; returns its id."""
    with _pipeline(config) as pipeline:
        return pipeline.mapped.id


@flow(name="train", flow_run_name="train {config.student.model}")
def train_flow(config: RunConfig) -> str:
    """Train the student; returns its id."""
    with _pipeline(config) as pipeline:
        return pipeline.trained.id


@flow(name="evaluate", flow_run_name="evaluate {config.student.model}")
def evaluate_flow(config: RunConfig) -> str:
    """Measure the student; returns the evaluation's id."""
    with _pipeline(config) as pipeline:
        return pipeline.evaluated.id


@flow(name="export", flow_run_name="export {config.student.model}")
def export_flow(config: RunConfig) -> str:
    """Publish the student as ONNX; returns where it lies."""
    with _pipeline(config) as pipeline:
        rows = summary(pipeline)
        create_table_artifact(
            [{"": r.group, " ": r.label, "teacher": r.teacher, "student": r.student} for r in rows],
            key="summary",
            description=f"{config.student.model} against {config.teacher.model}",
        )
        return pipeline.exported.location


STAGES: dict[str, Callable[[RunConfig], Any]] = {
    "index": index_flow,
    "extract": extract_flow,
    "map": map_flow,
    "train": train_flow,
    "evaluate": evaluate_flow,
    "export": export_flow,
}


@flow(name="distill", flow_run_name="distill {config.student.model} from {config.teacher.model}")
def distill(config: RunConfig) -> dict[str, float]:
    """Run every stage; returns the seconds that each took."""
    seconds = {}
    with sharing(_SHARED.get() or Pipeline(config)):
        for name, stage in STAGES.items():
            started = time.monotonic()
            stage(config)
            seconds[name] = round(time.monotonic() - started, 1)
    return seconds


def summary(pipeline: Pipeline) -> list[Row]:
    """Return the summary of a finished run."""
    return summary_rows(
        pipeline.config,
        pipeline.indexed.photos(),
        pipeline.mapped.record,
        pipeline.trained.record,
        pipeline.evaluated.record,
        pipeline.exported.record,
    )
