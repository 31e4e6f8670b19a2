"""Two runs of one config, started at the same time: one works, the other waits for it."""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from flows.config.load import load_config
from flows.stages.pipeline import Pipeline
from storage.cache import FeatureCache
from tests.runs import write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_RUN = """
import logging, sys
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
from flows.config.load import load_config
from flows.stages.pipeline import Pipeline
Pipeline(load_config(sys.argv[1])).exported
"""


def check_that_one_works_and_one_waits(config: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _RUN, str(config)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    told = []
    for run in runs:
        said, errors = run.communicate(timeout=280)
        assert run.returncode == 0, errors
        told += said.splitlines()

    def times(*words: str) -> int:
        return sum(all(word in line for word in words) for line in told)

    # Neither ever did what the other did.
    for work in ("Extract shapes (light)", "Extract shapes (eval)", "Fit mapping", "Train test_re"):
        assert times(work) == 1
    assert times("Embed shapes") == 2
    assert times("Export: 2 steps") == 1
    assert times(": waiting for process") >= 1

    run = Pipeline(load_config(config))
    assert run.exported.reused
    keys = run.indexed.data.keys("train")
    assert FeatureCache.open(run.root, run.extracted.training_cache).verify() == []
    assert FeatureCache.open(run.root, run.extracted.training_cache).missing(keys) == []
    assert run.root.list("leases") == []


def test_two_runs_at_once_in_a_folder(tmp_path: Path, settings: dict[str, Any]) -> None:
    check_that_one_works_and_one_waits(write_config(tmp_path, settings))


def test_two_runs_at_once_in_a_bucket(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "XDG_CACHE_HOME": str(tmp_path / "copies"),
    }.items():
        monkeypatch.setenv(name, value)
    request = urllib.request.Request(f"http://{host}:{port}/two", method="PUT")
    urllib.request.urlopen(request).close()
    try:
        check_that_one_works_and_one_waits(
            write_config(tmp_path, {**settings, "root": "s3://two/runs"})
        )
    finally:
        server.stop()
