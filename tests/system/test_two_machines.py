"""A real Ray cluster of two nodes on the loopback, one of which is killed in the midst of its work.

A node is a raylet and the workers that it started. All of its processes get a SIGKILL, as when a
machine loses its power; the other node and the run that waits for both go on.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.config.load import parse_config
from flows.experiments.leaderboard import leaderboard
from flows.stages.models import TENSORS
from flows.stages.pipeline import Pipeline
from storage.artifacts import read_file
from storage.root import Root, open_root
from tests.flows.orchestration.test_ray import shards
from tests.photos import photo
from tests.runs import write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TINTEM = str(Path(sys.executable).parent / "tintem")
# Small nodes: nothing that TinTeM computes travels through Ray's own memory.
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


class Node:
    """One of the cluster's nodes, seen from outside."""

    def __init__(self, node: Any) -> None:
        self._raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)

    def processes(self) -> list[psutil.Process]:
        return [self._raylet, *self._raylet.children(recursive=True)]

    def works_in(self, root: Root) -> bool:
        """Whether a process of this node holds a lease, as whoever computes something does."""
        mine = {process.pid for process in self.processes()}
        claims = root.read_many([path for path in root.list("leases") if path.endswith(".json")])
        return any(json.loads(claim)["pid"] in mine for claim in claims if claim)

    def kill(self) -> None:
        processes = self.processes()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        assert psutil.wait_procs(processes, timeout=30)[1] == []


class TwoNodes:
    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args=NODE)
        self.second = Node(self._cluster.add_node(**{k: NODE[k] for k in NODE if "dash" not in k}))
        self.address = self._cluster.address

    def stop(self) -> None:
        self._cluster.shutdown()


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoNodes]:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # Whether or not this user has a token of another cluster.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = TwoNodes()
    yield cluster
    cluster.stop()


def start(command: str, config: Path, home: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_DATA_HOME": str(home)}
    return subprocess.Popen(
        [TINTEM, command, str(config), *options], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not reached():
        if process.poll() is not None:
            pytest.fail(f"the run ended before: {process.communicate()}")
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finish(process: subprocess.Popen[str]) -> str:
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors + printed
    return printed


def spread(settings: dict[str, Any], cluster: TwoNodes, shards_per_task: int = 2) -> dict[str, Any]:
    """Return the settings of the same run, spread over a cluster."""
    where = {"address": cluster.address, "shards_per_task": shards_per_task}
    return {**settings, "runtime": {**settings["runtime"], "cluster": where}}


def extracted_here(settings: dict[str, Any], folder: Path) -> Root:
    """Let an extraction have many shards; returns a root in which one process wrote them all."""
    for i in range(48, 192):
        photo(i).save(Path(settings["data"]["uri"]) / "disc" / f"photo-{i:04d}.png")
    settings["views"]["count"] = 8
    settings["cache"]["rows_per_shard"] = 1
    alone = Pipeline(parse_config({**settings, "root": str(folder / "here")}, "here"))
    assert alone.extracted
    return alone.root


def students(root: Root) -> dict[str, bytes]:
    return {id: read_file(root, "students", id, TENSORS) for id in root.folders("students")}


def commits(root: Root) -> int:
    return sum("-light-" in path and "/commits/" in path for path in root.list("caches"))


@pytest.mark.parametrize("where", ["a folder", "a bucket"])
def test_an_extraction_loses_nothing_with_a_node(
    settings: dict[str, Any], tmp_path: Path, where: str, s3_url: str, two_nodes: TwoNodes
) -> None:
    alone = extracted_here(settings, tmp_path)
    root = open_root(settings["root"] if where == "a folder" else s3_url)
    config = write_config(tmp_path, {**spread(settings, two_nodes), "root": root.url})
    run = start("extract", config, tmp_path)
    wait_until(lambda: commits(root) >= 2 and two_nodes.second.works_in(root), run)
    done = commits(root)
    two_nodes.second.kill()
    finish(run)
    assert done < commits(root)

    assert shards(root) == shards(alone) != {}
    verdicts = json.loads(finish(start("verify", config, tmp_path, "--json")))
    assert all(verdict["sound"] for verdict in verdicts)
    assert [verdict["id"] for verdict in verdicts] == [*root.folders("caches")[::-1], "manifests"]


def test_a_sweep_loses_nothing_with_a_node(
    settings: dict[str, Any], tmp_path: Path, two_nodes: TwoNodes
) -> None:
    settings["training"]["epochs"] = 60
    settings["runtime"]["checkpoint_seconds"] = 0
    settings["sweep"] = {"seeds": [0, 1, 2]}
    alone = write_config(tmp_path, {**settings, "root": str(tmp_path / "alone")}, "alone.yaml")
    # By a process of its own, as on the cluster: fitted inside this one, the mapping once differed,
    # for a reason that was not found.
    finish(start("sweep", alone, tmp_path))
    wanted = students(open_root(str(tmp_path / "alone")))

    root = open_root(settings["root"])
    config = write_config(tmp_path, spread(settings, two_nodes))
    run = start("sweep", config, tmp_path)
    wait_until(lambda: any("progress.json" in path for path in root.list("students")), run)
    wait_until(lambda: two_nodes.second.works_in(root), run)
    two_nodes.second.kill()
    printed = finish(run)

    assert students(root) == wanted
    assert len(wanted) == 3
    assert "pairwise_pearson" in printed
    (group,) = leaderboard(root).groups
    assert group.table["status"].to_list() == ["done"] * 3
    assert leaderboard(root).unfinished == ()


def test_an_extraction_whose_run_dies_is_finished_by_the_next(
    settings: dict[str, Any], tmp_path: Path, two_nodes: TwoNodes
) -> None:
    alone = extracted_here(settings, tmp_path)
    root = open_root(settings["root"])
    config = write_config(tmp_path, spread(settings, two_nodes))
    run = start("extract", config, tmp_path)
    wait_until(lambda: commits(root) >= 2 and two_nodes.second.works_in(root), run)
    run.kill()
    run.communicate(timeout=60)
    done = commits(root)
    assert done < len(shards(alone))

    finish(start("extract", config, tmp_path))
    assert commits(root) > done
    assert shards(root) == shards(alone)
    # What Ray's SIGKILL left keeps nobody waiting: it is known to be of the dead.
    left = root.read_many([path for path in root.list("leases") if path.endswith(".json")])
    assert not [claim for claim in left if claim and psutil.pid_exists(json.loads(claim)["pid"])]
