"""What a stage does when the object store or the disk fails it: on a real server, a real S3."""

import errno
import logging
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from moto.server import ThreadedMotoServer
from prefect.client.orchestration import get_client
from prefect.testing.utilities import prefect_test_harness

from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.distill import index_flow
from flows.failures import may_pass
from flows.orchestration import retries
from flows.stages.index import index
from storage.errors import DeniedError, StorageInputError, UnreachableError
from storage.root import s3
from storage.root.local import LocalRoot
from tests.runs import write_config
from tests.services import free_port
from tintem_core.errors import InputError


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (UnreachableError("the store is away"), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (OSError(errno.EIO, "a disk"), True),
        (OSError(errno.ESTALE, "a network folder"), True),
        (OSError(errno.ENOSPC, "full"), False),
        (FileNotFoundError(errno.ENOENT, "gone"), False),
        (DeniedError("no rights"), False),
        (InputError("a mistake"), False),
        (ValueError("a bug"), False),
    ],
)
def test_only_errors_of_networks_and_disks_may_pass(error: Exception, passes: bool) -> None:
    assert may_pass(error) is passes


def test_what_caused_an_error_tells_whether_it_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, passes in ((errno.EIO, True), (errno.ENOSPC, False)):
        broken = OSError(number, "told by the system")
        monkeypatch.setattr("os.fsync", Mock(side_effect=broken))
        with pytest.raises(StorageInputError) as caught:
            LocalRoot(str(tmp_path)).write("thing", b"")
        assert may_pass(caught.value) is passes


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def states(prefect: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ask for the states that the last run went through."""
    monkeypatch.setattr(retries, "PAUSES", (2.0, 2.0, 2.0))

    def ask() -> list[str]:
        with get_client(sync_client=True) as client:
            run = max(client.read_flow_runs(), key=lambda run: run.created)
            return [state.name for state in client.read_flow_run_states(run.id)]

    return ask


class Store:
    """An S3 server that can be away for a while."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.come()
        request = urllib.request.Request(f"{self.url}/flaky", method="PUT")
        urllib.request.urlopen(request).close()

    def come(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def leave(self) -> None:
        self._server.stop()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    store = Store()
    for name, value in {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    # Not the minutes that its client is patient for by itself.
    monkeypatch.setattr(s3, "_RETRY", {"max_retries": 1, "retry_timeout": timedelta(seconds=2)})
    yield store
    store.leave()


@pytest.fixture
def remote(settings: dict[str, Any], tmp_path: Path, store: Store) -> RunConfig:
    return load_config(write_config(tmp_path, {**settings, "root": "s3://flaky/run"}))


@pytest.mark.slow
def test_a_stage_waits_for_an_object_store_that_is_away(
    remote: RunConfig, store: Store, states: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.leave()
    attempts = []

    def attempt(*arguments: Any) -> Any:
        attempts.append(1)
        try:
            return index(*arguments)
        finally:
            # Back after the first attempt, however long that takes.
            if len(attempts) == 1:
                store.come()

    monkeypatch.setattr("flows.stages.pipeline.index", attempt)
    assert index_flow(remote) == {"shapes": 48}
    went = states()
    assert went[:3] == ["Pending", "Running", "AwaitingRetry"]
    assert went[-2:] == ["Running", "Completed"]


@pytest.mark.slow
def test_a_store_that_stays_away_is_given_up(remote: RunConfig, store: Store, states: Any) -> None:
    store.leave()
    with pytest.raises(UnreachableError, match="cannot be reached"):
        index_flow(remote)
    went = states()
    assert went.count("AwaitingRetry") == 3
    assert went[-1] == "Failed"
    store.come()


@pytest.mark.slow
def test_a_mistake_is_not_repeated(settings: dict[str, Any], tmp_path: Path, states: Any) -> None:
    settings["data"]["test_share"] = 0.95
    with pytest.raises(InputError):
        index_flow(load_config(write_config(tmp_path, settings)))
    assert states() == ["Pending", "Running", "Failed"]


@pytest.mark.slow
def test_a_mistake_found_after_a_pause_is_not_repeated_either(
    config: RunConfig, states: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [OSError(errno.EIO, "a disk"), InputError("a mistake")]

    def fail(*_arguments: object) -> None:
        raise errors.pop(0)

    monkeypatch.setattr("flows.stages.pipeline.index", fail)
    with pytest.raises(InputError, match="a mistake"):
        index_flow(config)
    assert states() == ["Pending", "Running", "AwaitingRetry", "Running", "Failed"]
