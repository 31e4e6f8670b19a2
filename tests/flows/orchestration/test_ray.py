"""What is said and sent before a cluster is at work; the cluster itself: test_two_machines."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from prefect_ray.context import RemoteOptionsContext

from flows.config import cluster as cluster_config
from flows.config.cluster import ClusterConfig
from flows.config.load import parse_config
from flows.config.run import RunConfig
from flows.execution.local import LocalExecutor
from flows.orchestration import ray as cluster
from flows.orchestration.ray import cluster_connection
from flows.reporting.base import reporting_to
from flows.stages.pipeline import Pipeline
from flows.stages.preflight import preflight
from flows.stages.shards import parts_of
from storage.cache import ShardTask
from storage.lease import hold
from storage.root import Root, open_root
from tests.runs import Notes
from tintem_core.errors import InputError, TintemError


def on_cluster(settings: dict[str, Any], value: Any = "local") -> RunConfig:
    runtime = {**settings["runtime"], "cluster": value}
    return parse_config({**settings, "runtime": runtime}, "test")


def test_an_address_alone_describes_a_cluster(settings: dict[str, Any]) -> None:
    assert on_cluster(settings, "10.0.0.1:6379").runtime.cluster == ClusterConfig(
        address="10.0.0.1:6379"
    )
    whole = {"address": "local", "gpus_per_task": 0.5, "cpus_per_task": 4, "shards_per_task": 2}
    assert on_cluster(settings, whole).runtime.cluster == ClusterConfig.model_validate(whole)


def test_a_machine_without_ray_is_told_so_before_any_work(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_config, "find_spec", lambda name: None)
    preflight(parse_config(settings, "test"))
    with pytest.raises(InputError, match=r"needs Ray, which is not installed: pip install .*\[ray"):
        preflight(on_cluster(settings))
    with pytest.raises(InputError, match="needs Ray"), cluster_connection(ClusterConfig()):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_named(address: str) -> None:
    with (
        pytest.raises(
            InputError, match=f"no Ray cluster answers at {address} .*refused.*ray start"
        ),
        cluster_connection(ClusterConfig(address=address)),
    ):
        pass


def test_other_machines_must_reach_the_prefect_server(monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        url = "http://127.0.0.1:4200/api"

    class Settings:
        api = Api()

    monkeypatch.setattr(cluster, "get_current_settings", Settings)
    cluster.refuse_unreachable_server(["127.0.0.1"])
    with pytest.raises(InputError, match=r"203\.0\.113\.9 cannot reach .* set PREFECT_API_URL"):
        cluster.refuse_unreachable_server(["127.0.0.1", "203.0.113.9"])
    Api.url = "http://prefect.example:4200/api"
    cluster.refuse_unreachable_server(["127.0.0.1", "203.0.113.9"])


@pytest.mark.parametrize(
    ("asked", "device", "gpus", "room"),
    [
        ({}, "auto", 1.0, 4),
        ({}, "cpu", 0.0, 32),
        ({"cpus_per_task": 16}, "auto", 1.0, 2),
        ({"gpus_per_task": 0.5}, "auto", 0.5, 8),
        ({"gpus_per_task": 0}, "auto", 0.0, 32),
        ({"gpus_per_task": 8}, "auto", 8.0, 0),
    ],
)
def test_tasks_are_given_the_gpus_that_there_are(
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    device: str,
    gpus: float,
    room: int,
) -> None:
    nodes = [{"Resources": {"CPU": 8.0}}, {"Resources": {"CPU": 32.0, "GPU": 4.0}}]
    monkeypatch.setattr(cluster, "_nodes", lambda: nodes)
    config = on_cluster({**settings, "runtime": {"device": device}}, asked)
    assert cluster.gpus_per_task(config) == gpus
    assert cluster.most_per_machine(config) == room


def test_a_task_uses_what_it_was_given_and_no_more(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_nodes", lambda: [{"Resources": {"CPU": 8.0, "GPU": 1.0}}])
    settings["runtime"] = {"device": "auto"}
    notes = Notes()
    with (
        reporting_to(notes),
        cluster.task_resources(on_cluster(settings, {"cpus_per_task": 4})) as runtime,
    ):
        options = RemoteOptionsContext.get().current_remote_options
    assert options == {"num_cpus": 4, "num_gpus": 1.0, "max_retries": 5}
    assert (runtime.decode_threads, runtime.loader_workers, runtime.cluster) == (4, 3, None)
    assert notes.notes == []
    with reporting_to(notes), cluster.task_resources(on_cluster(settings, {"cpus_per_task": 64})):
        pass
    assert notes.notes == [
        "no machine of the cluster has 64 cores and 1 GPUs to give to a task: waiting for one to "
        "join"
    ]


def test_a_task_is_sent_its_own_images_and_no_others(config: RunConfig) -> None:
    data = Pipeline(config).indexed.data
    keys = data.keys()
    groups = {
        0: [ShardTask(0, tuple(keys[:5])), ShardTask(1, tuple(keys[5:9]))],
        3: [ShardTask(6, tuple(keys[20:24]))],
    }
    parts = parts_of(data, groups)
    assert parts[0].keys() == sorted(keys[:9])
    assert parts[3].keys() == sorted(keys[20:24])
    assert (
        dict(zip(parts[3].keys(), parts[3].uris(), strict=True)).items()
        <= dict(zip(data.keys(), data.uris(), strict=True)).items()
    )


class Elsewhere:
    """An executor of one shard per item; the items go through a function of the test's own."""

    shards_per_item = 1

    def __init__(self, work: Callable[[Any, RunConfig, Any, str], None]) -> None:
        self._work = work

    def map(self, config: RunConfig, work: Any, items: Any) -> Iterator[tuple[str, None]]:
        for name, item in reversed(items.items()):
            self._work(work, config, item, name)
            yield name, None


def test_shards_computed_elsewhere_are_the_ones_computed_here(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    here = parse_config({**settings, "root": str(tmp_path / "here")}, "test")
    there = parse_config({**settings, "root": str(tmp_path / "there")}, "test")
    assert Pipeline(here).extracted
    sent: list[str] = []
    root = open_root(there.root)

    def twice(work: Any, config: RunConfig, group: Any, name: str) -> None:
        sent.append(name)
        work(config, group, name)
        # Begun again by Ray, a task finds its shards and computes nothing.
        notes = Notes()
        with reporting_to(notes):
            work(config, group, name)
        assert notes.work == {}

    assert not Pipeline(there, Elsewhere(twice)).extracted.reused
    assert sorted(sent) == [
        *(f"shapes (eval), shard {number}" for number in range(6)),
        *(f"shapes (light), shard {number}" for number in range(4)),
    ]
    assert shards(open_root(here.root)) == shards(root) != {}
    assert Pipeline(there, Elsewhere(twice)).extracted.reused


@pytest.mark.parametrize("shards_per_item", [1, 3, 100])
def test_the_executor_of_this_process_computes_the_same(
    settings: dict[str, Any], tmp_path: Path, shards_per_item: int
) -> None:
    here = parse_config({**settings, "root": str(tmp_path / "here")}, "test")
    there = parse_config({**settings, "root": str(tmp_path / "there")}, "test")
    assert Pipeline(here).extracted
    assert Pipeline(there, LocalExecutor(shards_per_item)).extracted
    assert shards(open_root(here.root)) == shards(open_root(there.root)) != {}


def test_what_one_group_fails_with_is_told_after_all_are_tried(config: RunConfig) -> None:
    tried = []

    class OneFails(LocalExecutor):
        def map(self, config: RunConfig, work: Any, items: Any) -> Any:
            for name, item in items.items():
                tried.append(name)
                if len(tried) == 2:
                    yield name, TintemError("no memory.")
                else:
                    yield from super().map(config, work, {name: item})

    with pytest.raises(TintemError, match="1 of 4 groups of shards could not be computed: no mem"):
        assert Pipeline(config, OneFails(1)).extracted
    assert len(tried) == 4


def test_a_shard_that_another_machine_computes_is_waited_for(config: RunConfig) -> None:
    root, waited = open_root(config.root), []

    def elsewhere(work: Any, config: RunConfig, group: Any, title: str) -> None:
        if waited:
            work(config, group, title)
            return
        # The other machine was given this shard in another group.
        id = group.want.spec.id
        with ThreadPoolExecutor(1) as machine:
            with hold(root, f"caches/{id}/shard-{group.tasks[-1].shard}", lambda _: None):
                computed = machine.submit(work, config, group, title)
                waited.append(wait([computed], timeout=2).not_done)
                assert shards(root) == {}
            computed.result(timeout=120)

    assert not Pipeline(config, Elsewhere(elsewhere)).extracted.reused
    assert len(waited[0]) == 1


def shards(root: Root) -> dict[str, bytes]:
    """The bytes of every shard of every cache."""
    return {path: root.read(path) for path in root.list("caches") if "/c/" in path}


def test_a_root_that_the_others_do_not_see_is_told(config: RunConfig) -> None:
    with pytest.raises(InputError, match=r"are not in .* a shared folder or s3://"):
        assert Pipeline(config, Elsewhere(lambda *_: None)).extracted
