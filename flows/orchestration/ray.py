"""Shards and students as tasks on a Ray cluster, through Prefect's own integration.

Ray begins the tasks of a worker or a machine that died again elsewhere. Each of them makes sure of
something that is recorded beside the data, so that no more is computed again than was lost.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil
from prefect import Task, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.events.worker import EventsWorker
from prefect.settings import get_current_settings

from flows.config.cluster import ClusterConfig, require_ray
from flows.config.run import RunConfig, RuntimeConfig
from flows.orchestration.reporter import PrefectReporter
from flows.orchestration.retries import ENSURING, Opaque, all_of, error_of
from flows.reporting.base import reporter, reporting_to
from tintem_core.errors import InputError

T = TypeVar("T")

# How often Ray begins a task again.
_REPEATS = 5
# Arguments of tasks are small; embeddings never travel through Ray.
_STORE_BYTES = 100 * 2**20
_PATIENCE_SECONDS = 10.0


@contextmanager
def cluster_connection(cluster: ClusterConfig) -> Iterator[None]:
    """Be connected to a cluster inside the block.

    Raises:
        InputError: if Ray is not installed, no cluster answers, or its machines could not reach
            the Prefect server.
    """
    require_ray()
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if cluster.address == "local":
        ray.init("local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
    else:
        _refuse_silent(cluster.address)
        try:
            ray.init(cluster.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise _no_cluster(cluster.address, str(error)) from None
    try:
        refuse_unreachable_server([str(node["NodeManagerAddress"]) for node in _nodes()])
        yield
    finally:
        ray.shutdown()


def all_on_cluster(
    task: Task[..., Any], work: Mapping[str, Opaque[Any]]
) -> Iterator[tuple[str, State[Any]]]:
    """Run a task for all work on the cluster that is connected; see :func:`all_of`."""
    from prefect_ray import RayTaskRunner

    delivering = task.with_options(on_completion=[_deliver], on_failure=[_deliver])
    return all_of(RayTaskRunner(), delivering, work)


def _deliver(_task: Task[..., Any], _run: TaskRun, _state: State[Any]) -> None:
    # A worker may be gone before its thread has told Prefect how its last task ended.
    EventsWorker.instance().wait_until_empty()


@contextmanager
def task_resources(config: RunConfig) -> Iterator[RuntimeConfig]:
    """Give the tasks submitted inside the block what the config says.

    Yields:
        The settings that such a task runs with, to use what it was given and no more.
    """
    from prefect_ray.context import remote_options

    cluster = config.runtime.cluster
    assert cluster is not None
    cpus, gpus = cluster.cpus_per_task, gpus_per_task(config)
    if most_per_machine(config) == 0:
        reporter().note(
            f"no machine of the cluster has {cpus} cores and {gpus:g} GPUs to give to a task: "
            "waiting for one to join"
        )
    runtime = config.runtime
    own: dict[str, Any] = {
        "cluster": None,
        "decode_threads": runtime.decode_threads or cpus,
        "loader_workers": runtime.loader_workers,
    }
    if gpus and runtime.loader_workers is None:
        own["loader_workers"] = max(1, cpus - 1)
    with remote_options(num_cpus=cpus, num_gpus=gpus, max_retries=_REPEATS):
        yield runtime.model_copy(update=own)


def most_per_machine(config: RunConfig) -> int:
    """Return how many tasks the largest machine of the cluster has room for."""
    cluster = config.runtime.cluster
    assert cluster is not None
    gpus = gpus_per_task(config)
    return max(
        int(
            min(
                node["Resources"].get("CPU", 0) // cluster.cpus_per_task,
                node["Resources"].get("GPU", 0) / gpus if gpus else float("inf"),
            )
        )
        for node in _nodes()
    )


@task(name="shards", **ENSURING)
def work_task(
    name: str, work: Opaque[tuple[Callable[[RunConfig, Any, str], None], RunConfig, Any]]
) -> None:
    """Work on one item."""
    function, config, item = work.content
    with reporting_to(PrefectReporter()):
        function(config, item, name)


class RayExecutor:
    """Has work done by tasks on a cluster; see :class:`flows.execution.base.Executor`.

    Connected only once there is something to do, and then until it is left.
    """

    def __init__(self, cluster: ClusterConfig, stack: ExitStack) -> None:
        self._cluster, self._stack = cluster, stack

    @property
    def shards_per_item(self) -> int:
        return self._cluster.shards_per_task

    def map(
        self, config: RunConfig, work: Callable[[RunConfig, T, str], None], items: Mapping[str, T]
    ) -> Iterator[tuple[str, BaseException | None]]:
        self._stack.enter_context(cluster_connection(self._cluster))
        with task_resources(config) as runtime:
            own = config.model_copy(update={"runtime": runtime})
            sealed = {name: Opaque((work, own, item)) for name, item in items.items()}
            for name, state in all_on_cluster(work_task, sealed):
                yield name, error_of(state)


@contextmanager
def executor_of(config: RunConfig) -> Iterator[RayExecutor | None]:
    """Yield who works on the shards of a run: its cluster, or None for this process."""
    cluster = config.runtime.cluster
    if cluster is None:
        yield None
        return
    with ExitStack() as stack:
        yield RayExecutor(cluster, stack)


def gpus_per_task(config: RunConfig) -> float:
    cluster = config.runtime.cluster
    assert cluster is not None
    if cluster.gpus_per_task is not None:
        return cluster.gpus_per_task
    has_gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in _nodes())
    return 1.0 if has_gpus and config.runtime.device != "cpu" else 0.0


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _refuse_silent(address: str) -> None:
    """Raises InputError where nothing listens; Ray would ask again for minutes."""
    place = urlsplit(address if "://" in address else f"ray://{address}")
    if place.hostname is not None and place.port is not None:
        try:
            socket.create_connection((place.hostname, place.port), _PATIENCE_SECONDS).close()
        except OSError as error:
            # Not as its consequence: it would be taken for one that may pass by itself.
            raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str, reason: str) -> InputError:
    return InputError(
        f"runtime.cluster: no Ray cluster answers at {address} ({reason}): `ray start --head` on "
        "its first machine begins one and prints its address; where it asks for a token, "
        "RAY_AUTH_MODE=token has to be set here too."
    )


def refuse_unreachable_server(machines: list[str]) -> None:
    """Raises InputError where Prefect's server answers this machine alone, and there are others."""
    url = get_current_settings().api.url
    host = "127.0.0.1" if url is None else urlsplit(str(url)).hostname
    here = {a.address for addresses in psutil.net_if_addrs().values() for a in addresses}
    others = sorted(set(machines) - here)
    if others and host in ("127.0.0.1", "localhost", "::1"):
        raise InputError(
            f"the cluster's machine {others[0]} cannot reach the Prefect server at {host}, which "
            "is this machine's own: set PREFECT_API_URL to a server that all machines reach "
            "(docs/cluster.md)."
        )
