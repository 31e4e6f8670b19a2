"""The Prefect flows: one per stage, and `distill`, which runs them all.

A stage flow can be deployed alone: it makes sure that the stages before it are done. What is done
is read from the records beside the data, never from Prefect.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from prefect import flow, tags
from prefect.client.schemas.objects import State
from prefect.settings import get_current_settings

from flows.config.run import RunConfig
from flows.orchestration.artifacts import (
    publish_evaluation,
    publish_report,
    publish_summary,
    publish_training,
)
from flows.orchestration.ephemeral import HEARTBEAT_SECONDS
from flows.orchestration.ray import executor_of
from flows.orchestration.reporter import PrefectReporter, if_heard
from flows.orchestration.retries import with_retries
from flows.reporting.base import Broadcast, reporter, reporting_to
from flows.stages.pipeline import Pipeline

_SHARED: ContextVar[Pipeline | None] = ContextVar("shared_pipeline", default=None)


@contextlib.contextmanager
def sharing(pipeline: Pipeline) -> Iterator[None]:
    """Let every flow called inside the block work on one pipeline, so that nothing is redone."""
    token = _SHARED.set(pipeline)
    try:
        with tags(*_tags()):
            yield
    finally:
        _SHARED.reset(token)


def _tags() -> list[str]:
    """Return what runs are to be known by.

    orchestration/automations.yaml waits for the next heartbeat of those that promise one so often.
    """
    seconds = get_current_settings().flows.heartbeat_frequency
    promised = seconds is not None and seconds <= HEARTBEAT_SECONDS
    return ["tintem", f"heartbeat-{HEARTBEAT_SECONDS}s"] if promised else ["tintem"]


@contextlib.contextmanager
def _stage(config: RunConfig) -> Iterator[Pipeline]:
    """Use the shared pipeline, or a new one when a stage runs alone; report to Prefect too."""
    pipeline = _SHARED.get() or Pipeline(config)
    heard = reporting_to(Broadcast(reporter(), PrefectReporter()))
    with heard, with_retries(), executor_of(config) as executor:
        pipeline.executor = executor
        yield pipeline


@flow(name="index", flow_run_name="index {config.data.name}")
def index_flow(config: RunConfig) -> dict[str, int]:
    """List the images; returns the number of photos per dataset."""
    with _stage(config) as pipeline:
        return {d.name: len(d.keys()) for d in pipeline.indexed.datasets()}


@flow(name="extract", flow_run_name="extract {config.data.name} with {config.teacher.name}")
def extract_flow(config: RunConfig) -> list[str]:
    """Embed all views with the teacher; returns the ids of the feature caches.

    With cache.keep_mapped the mapping is fitted on the way, as tokens are stored through it.
    """
    with _stage(config) as pipeline:
        stored = pipeline.all_caches
        return [stored.training_cache, *stored.evaluation_caches.values(), *stored.mapped_tokens]


@flow(name="map", flow_run_name="map {config.data.name} from {config.teacher.name}")
def map_flow(config: RunConfig) -> str:
    """Fit the mapping; returns its id."""
    with _stage(config) as pipeline:
        return pipeline.mapped.id


@flow(name="train", flow_run_name="train {config.student.name} on {config.data.name}")
def train_flow(config: RunConfig) -> str:
    """Train the student; returns its id."""
    with _stage(config) as pipeline:
        student = pipeline.trained.id
        with if_heard():
            publish_training(pipeline)
        return student


@flow(name="evaluate", flow_run_name="evaluate {config.student.name} on {config.data.name}")
def evaluate_flow(config: RunConfig) -> str:
    """Measure the student; returns the evaluation's id."""
    with _stage(config) as pipeline:
        evaluation = pipeline.evaluated.id
        with if_heard():
            publish_evaluation(pipeline)
        return evaluation


@flow(name="export", flow_run_name="export {config.student.name}")
def export_flow(config: RunConfig) -> str:
    """Publish the student as ONNX; returns where it lies."""
    with _stage(config) as pipeline:
        location = pipeline.exported.location
        with if_heard():
            publish_summary(config, pipeline.summary(), location)
        return location


STAGES: dict[str, Callable[..., Any]] = {
    "index": index_flow,
    "extract": extract_flow,
    "map": map_flow,
    "train": train_flow,
    "evaluate": evaluate_flow,
    "export": export_flow,
}


@flow(name="distill", flow_run_name="distill {config.student.name} from {config.teacher.name}")
def distill(config: RunConfig) -> dict[str, float]:
    """Run every stage; returns the seconds that each took."""
    seconds: dict[str, float] = {}
    before: list[State[Any]] = []
    pipeline = _SHARED.get() or Pipeline(config)
    with sharing(pipeline):
        for name, stage in STAGES.items():
            started = time.monotonic()
            # Handing on the states draws the run as the chain that it is.
            state = stage(config, return_state=True, wait_for=before)
            state.result()
            before = [state]
            seconds[name] = round(time.monotonic() - started, 1)
    with if_heard():
        publish_report(pipeline, pipeline.summary())
    return seconds
