"""What is said and sent before a cluster is at work; the cluster itself: test_two_machines."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from prefect_ray.context import RemoteOptionsContext

from flows.config import RunConfig, parse_config
from flows.machines import cluster
from flows.machines import config as cluster_config
from flows.machines.cluster import connected
from flows.machines.config import ClusterConfig
from flows.reporting import reporting_to
from flows.stages.extract import compute_shards
from flows.stages.pipeline import Pipeline
from flows.stages.preflight import preflight
from flows.stages.spreading import spread_by
from storage.cache import ShardTask
from storage.lease import hold
from storage.root import Root, open_root
from tests.flows.conftest import Notes
from tintem_core.errors import InputError


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
    with pytest.raises(InputError, match="needs Ray"), connected(ClusterConfig()):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_named(address: str) -> None:
    with (
        pytest.raises(
            InputError, match=f"no Ray cluster answers at {address} .*refused.*ray start"
        ),
        connected(ClusterConfig(address=address)),
    ):
        pass


def test_other_machines_must_reach_the_prefect_server(monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        url = "http://127.0.0.1:4200/api"

    class Settings:
        api = Api()

    monkeypatch.setattr(cluster, "get_current_settings", Settings)
    cluster._refuse_unreachable_server(["127.0.0.1"])
    with pytest.raises(InputError, match=r"203\.0\.113\.9 cannot reach .* set PREFECT_API_URL"):
        cluster._refuse_unreachable_server(["127.0.0.1", "203.0.113.9"])
    Api.url = "http://prefect.example:4200/api"
    cluster._refuse_unreachable_server(["127.0.0.1", "203.0.113.9"])


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
    assert cluster._gpus_per_task(config) == gpus
    assert cluster.most_per_machine(config) == room


def test_a_task_uses_what_it_was_given_and_no_more(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_nodes", lambda: [{"Resources": {"CPU": 8.0, "GPU": 1.0}}])
    settings["runtime"] = {"device": "auto"}
    notes = Notes()
    with reporting_to(notes), cluster.given(on_cluster(settings, {"cpus_per_task": 4})) as runtime:
        options = RemoteOptionsContext.get().current_remote_options
    assert options == {"num_cpus": 4, "num_gpus": 1.0, "max_retries": 5}
    assert (runtime.decode_threads, runtime.loader_workers, runtime.cluster) == (4, 3, None)
    assert notes.notes == []
    with reporting_to(notes), cluster.given(on_cluster(settings, {"cpus_per_task": 64})):
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
    parts = cluster._parts(data, groups)
    assert parts[0].keys() == sorted(keys[:9])
    assert parts[3].keys() == sorted(keys[20:24])
    assert (
        dict(zip(parts[3].keys(), parts[3].uris(), strict=True)).items()
        <= dict(zip(data.keys(), data.uris(), strict=True)).items()
    )


def test_shards_computed_elsewhere_are_the_ones_computed_here(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    here = parse_config({**settings, "root": str(tmp_path / "here")}, "test")
    there = parse_config({**settings, "root": str(tmp_path / "there")}, "test")
    assert Pipeline(here).extracted
    sent: Counter[str] = Counter()
    root = open_root(there.root)

    def elsewhere(config: RunConfig, want: Any, dataset: Any, tasks: Any, title: str) -> None:
        sent[title] += len(tasks)
        for task in reversed(tasks):
            part = cluster._parts(dataset, {0: [task]})[0]
            compute_shards(config, want, part, [task], title)
            # Begun again by Ray, a task finds its shards and computes nothing.
            notes = Notes()
            with reporting_to(notes):
                compute_shards(config, want, part, [task], title)
            assert notes.work == {}

    with spread_by(elsewhere):
        assert not Pipeline(there).extracted.reused
    assert sent == {"shapes (light)": 4, "shapes (eval)": 6}
    assert shards(open_root(here.root)) == shards(root) != {}
    with spread_by(elsewhere):
        assert Pipeline(there).extracted.reused


def test_a_shard_that_another_machine_computes_is_waited_for(config: RunConfig) -> None:
    root = open_root(config.root)

    def elsewhere(config: RunConfig, want: Any, dataset: Any, tasks: Any, title: str) -> None:
        # The other machine was given this shard in another group.
        name = f"caches/{want.spec.id}/shard-{tasks[-1].shard}"
        with ThreadPoolExecutor(1) as machine:
            with hold(root, name, lambda _: None):
                computed = machine.submit(compute_shards, config, want, dataset, tasks, title)
                wait([computed], timeout=2)
                assert not any(want.spec.id in path for path in shards(root))
            computed.result(timeout=120)

    with spread_by(elsewhere):
        assert not Pipeline(config).extracted.reused


def shards(root: Root) -> dict[str, bytes]:
    """The bytes of every shard of every cache."""
    return {path: root.read(path) for path in root.list("caches") if "/c/" in path}


def test_a_root_that_the_others_do_not_see_is_told(config: RunConfig) -> None:
    with (
        spread_by(lambda *_: None),
        pytest.raises(InputError, match=r"are not in .* a shared folder or s3://"),
    ):
        assert Pipeline(config).extracted
