"""Flows and tasks that are run again, and how their states are read."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar
from uuid import UUID

import httpx
from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRunPolicy, State, TaskRun
from prefect.context import FlowRunContext
from prefect.futures import as_completed
from prefect.task_runners import TaskRunner

from flows.failures import may_pass
from flows.reporting.base import reporter
from tintem_core.errors import TintemError

# Seconds before each further attempt. Beneath them, the client of the object store has already
# been patient for some minutes.
PAUSES = (10.0, 60.0, 300.0)


@contextlib.contextmanager
def with_retries() -> Iterator[None]:
    """In a flow: have it run again, after a pause, when the block fails for what may pass."""
    try:
        yield
    except Exception as error:
        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None:
            # Where Prefect cannot be reached either, the error itself is what counts.
            with contextlib.suppress(httpx.HTTPError):
                _set_policy(context.flow_run.id, error)
        raise


def _set_policy(run: UUID, error: Exception) -> None:
    """Tell Prefect whether a run that is about to fail is to be run again, and when."""
    with get_client(sync_client=True) as client:
        attempts = client.read_flow_run(run).run_count
        if may_pass(error) and attempts <= len(PAUSES):
            pause = PAUSES[attempts - 1]
            policy = FlowRunPolicy(retries=len(PAUSES), retry_delay=round(pause))
            client.update_flow_run(run, empirical_policy=policy)
            reporter().note(
                f"{error} Trying again in {pause:.0f} s (attempt {attempts + 1} of "
                f"{len(PAUSES) + 1})."
            )
        elif attempts > 1:
            client.update_flow_run(run, empirical_policy=FlowRunPolicy(retries=0))


T = TypeVar("T")


def _may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return may_pass(state.result(raise_on_failure=False))


# How a task that makes sure of something is declared. What is done is read from our own records.
ENSURING: dict[str, Any] = {
    "task_run_name": "{name}",
    "cache_policy": NO_CACHE,
    "retries": len(PAUSES),
    "retry_delay_seconds": list(PAUSES),
    "retry_condition_fn": _may_pass,
}


class Opaque(Generic[T]):
    """An argument that Prefect passes on without walking through it in search of futures.

    Its own annotation for that, ``opaque``, does not survive being sent to another process.
    """

    def __init__(self, content: T) -> None:
        self.content = content


def all_of(
    runner: TaskRunner[Any], task: Task[..., Any], work: Mapping[str, Opaque[Any]]
) -> Iterator[tuple[str, State[Any]]]:
    """Run a task of (name, work) for all work; yield each name when its task has ended."""
    with runner as running:
        names = {
            running.submit(task, parameters={"name": name, "work": sealed}): name
            for name, sealed in work.items()
        }
        for future in as_completed(list(names)):
            # The state is the future's own only once it was waited for.
            future.wait()
            yield names[future], future.state


def error_of(state: State[Any]) -> BaseException | None:
    """Return what a task failed with, if it did."""
    if state.is_completed():
        return None
    found = state.result(raise_on_failure=False)
    if isinstance(found, BaseException):
        return found
    return TintemError(state.message or f"it ended as {state.name}")
