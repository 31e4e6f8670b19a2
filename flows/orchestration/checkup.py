"""Whether the Prefect server that a user names answers, and fits."""

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version

from flows.planning.doctor import Finding, clock

_SECONDS = 10.0


def examine_prefect() -> Iterator[Finding]:
    """Look at the server of PREFECT_API_URL."""
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if not url:
        yield Finding("Prefect", "good", "no server is named: a run starts a private one")
        return
    try:
        with urllib.request.urlopen(f"{url}/admin/version", timeout=_SECONDS) as answer:
            theirs, date = json.loads(answer.read()), answer.headers["Date"]
    except (OSError, ValueError) as error:
        yield Finding(
            "Prefect", "bad", f"no server answers at {url} ({error})",
            "start it (`tintem up`), correct PREFECT_API_URL, or unset it",
        )  # fmt: skip
        return
    own = version("prefect")
    if theirs.split(".")[:2] != own.split(".")[:2]:
        cure = f"pip install 'prefect=={theirs}' here, or {own} there"
        yield Finding("Prefect", "poor", f"{url} has {theirs}, this machine {own}", cure)
    else:
        yield Finding("Prefect", "good", f"{url} answers, version {theirs}")
    if date:
        yield clock(url, date, time.time())
