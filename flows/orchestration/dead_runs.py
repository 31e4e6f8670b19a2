"""Runs whose processes are known to have ended are shown as Crashed, with all that is in them.

An automation does the same after five minutes of silence (automations.yaml), but not for the tasks
in them; and where the server itself was away, it may have missed the last heartbeat.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows.orchestration.services import POOL

_BEGUN = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
# A run inside another one may wait for its next attempt.
_UNFINISHED = [*_BEGUN, StateType.SCHEDULED, StateType.PAUSED]
# A run outlives a server that is away for some minutes, and its worker is then heard again.
_LAST_HEARD = timedelta(minutes=10)


def declare_dead(alive: Callable[[], Collection[UUID]], ended: str, beside: Collection[str]) -> int:
    """Show every run of the work pool as Crashed that has begun and is not among those alive.

    Only where all workers of the pool are known: a run does not say which machine it is on, so
    none is touched while the pool has a worker that is not of this machine.

    Args:
        alive: says which runs have a process on this machine.
        ended: name of the worker that has none any more.
        beside: names of the workers of this machine that live.

    Returns:
        How many there were, without those inside others.
    """
    with get_client(sync_client=True) as client:
        if not _has_pool(client):
            # `tintem up` was interrupted before it made one.
            return 0
        if _others_work(client, {ended, *beside}):
            return 0
        # What a worker has just taken has no process yet.
        states = [state for state in _BEGUN if not (beside and state is StateType.PENDING)]
        begun = list(_all(
            client.read_flow_runs,
            flow_run_filter=FlowRunFilter(state=_state(states)),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
        ))  # fmt: skip
        # Asked after the runs: one that begins in between is in neither.
        living = alive()
        dead = [run for run in begun if run.id not in living]
        level: Sequence[FlowRun] = dead
        while level:
            _crash(client, level)
            parents = FlowRunFilterParentFlowRunId(any_=[run.id for run in level])
            inside = FlowRunFilter(parent_flow_run_id=parents, state=_state(_UNFINISHED))
            level = list(_all(client.read_flow_runs, flow_run_filter=inside))
    return len(dead)


def _has_pool(client: SyncPrefectClient) -> bool:
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        return False
    return True


def _others_work(client: SyncPrefectClient, here: Collection[str]) -> bool:
    # Not by its status: a server that was away for minutes takes every worker for offline.
    since = datetime.now(UTC) - _LAST_HEARD
    return any(
        worker.name not in here
        and worker.last_heartbeat_time is not None
        and worker.last_heartbeat_time > since
        for worker in _all(client.read_workers_for_work_pool, work_pool_name=POOL)
    )


def _all(read: Callable[..., Sequence[Any]], **query: Any) -> Iterator[Any]:
    """Read every page: the server gives so many at once, as it is set to."""
    read_so_far = 0
    while page := read(**query, offset=read_so_far):
        yield from page
        read_so_far += len(page)


def _state(types: list[StateType]) -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=types))


def _crash(client: SyncPrefectClient, runs: Sequence[FlowRun]) -> None:
    died: State[Any] = Crashed(message="Its process has ended.")
    for run in runs:
        client.set_flow_run_state(run.id, died, force=True)
    tasks = list(_all(
        client.read_task_runs,
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id for run in runs])),
        task_run_filter=TaskRunFilter(
            state=TaskRunFilterState(type=TaskRunFilterStateType(any_=_UNFINISHED))
        ),
    ))  # fmt: skip
    for task in tasks:
        client.set_task_run_state(task.id, died, force=True)
