"""Tasks that can each fail alone, and what became of them."""

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import as_completed
from prefect.task_runners import TaskRunner

from flows.failures import may_pass
from flows.retries import PAUSES
from tintem_core.errors import TintemError

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


class Sealed(Generic[T]):
    """An argument that Prefect passes on without walking through it in search of futures.

    Its own annotation for that, ``opaque``, does not survive being sent to another process.
    """

    def __init__(self, content: T) -> None:
        self.content = content


def all_of(
    runner: TaskRunner[Any], task: Task[..., Any], work: Mapping[str, Sealed[Any]]
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
