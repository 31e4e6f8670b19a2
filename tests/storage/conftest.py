"""A small cache with known values, and images on disk."""

import itertools
import logging
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.cache import FeatureCache
from storage.root import Root, open_root
from storage.spec import CacheSpec
from storage.testing import SPEC, Sample, picture, some_keys


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return open_root(tmp_path / "root")


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
def sample(root: Root) -> Sample:
    """An empty cache with 8 images per shard."""
    return Sample(FeatureCache.create_or_open(root, SPEC, rows_per_shard=8))


@pytest.fixture
def keys() -> Callable[..., list[str]]:
    return some_keys


@pytest.fixture
def spec() -> CacheSpec:
    return SPEC


@pytest.fixture
def image() -> Callable[..., bytes]:
    return picture
