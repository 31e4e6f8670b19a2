"""Fixtures that more than one room of the house needs."""

import itertools
import logging
import os
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Tests run beside each other: more threads than processes only wait for each other. Before
# torch and NumPy are imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# Its tests of a root are plain asserts.
pytest.register_assert_rewrite("storage.testing")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin no slow test after the time that CI sets, so that it ends on a slow machine too."""
    until = os.environ.get("TINTEM_SLOW_UNTIL")
    if until and item.get_closest_marker("slow") and time.time() > float(until):
        pytest.skip("CI's time for slow tests is over; `make test-slow` runs them all")


# Its guard must come before timm, whichever tests are run.
import tintem_core  # noqa: F401
from flows.config.load import load_config
from flows.config.run import RunConfig
from tests.photos import photo
from tests.runs import small_run, write_config


@pytest.fixture
def photo_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of photos, in class folders where class names are given."""

    def make(
        count: int, classes: tuple[str, ...] = (), name: str = "photos", first: int = 0
    ) -> Path:
        folder = tmp_path / name
        for i in range(first, first + count):
            place = folder / classes[i % len(classes)] if classes else folder
            place.mkdir(parents=True, exist_ok=True)
            photo(i).save(place / f"photo-{i:04d}.png")
        return folder

    return make


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server that speaks the S3 protocol on the loopback."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


_buckets = itertools.count()


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket, and the environment that leads there."""
    bucket = f"bucket-{next(_buckets)}"
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    request = urllib.request.Request(f"{s3_endpoint}/{bucket}", method="PUT")
    urllib.request.urlopen(request).close()
    return f"s3://{bucket}/some/prefix"


@pytest.fixture
def settings(tmp_path: Path, photo_folder: Callable[..., Path]) -> dict[str, Any]:
    photos = photo_folder(48, classes=("disc", "plain"))
    return small_run(tmp_path, photos)


@pytest.fixture
def config_file(tmp_path: Path, settings: dict[str, Any]) -> Path:
    return write_config(tmp_path, settings)


@pytest.fixture
def config(config_file: Path) -> RunConfig:
    return load_config(config_file)
