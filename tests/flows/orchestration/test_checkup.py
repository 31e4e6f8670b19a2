"""The Prefect server that a user names, as `tintem doctor` sees it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import pytest

from flows.orchestration.checkup import examine_prefect


@contextmanager
def server(release: str, date: str) -> Iterator[str]:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_known = self.path == "/api/admin/version"
            self.send_response_only(200 if is_known else 404)
            self.send_header("Date", date)
            self.end_headers()
            self.wfile.write(f'"{release}"'.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/api"
        running.shutdown()


def states() -> dict[str, str]:
    return {each.name: each.state for each in examine_prefect()}


def test_no_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert states() == {"Prefect": "good"}


def test_a_server_that_fits_gives_its_clock_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(version("prefect"), formatdate(usegmt=True)) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert states() == {"Prefect": "good", "clock": "good"}


def test_another_release_and_another_time_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with server("2.20.1", formatdate(0, usegmt=True)) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        prefect, clock = examine_prefect()
    assert (prefect.state, clock.state) == ("poor", "bad")
    assert prefect.cure.startswith("pip install 'prefect==2.20.1' here")


def test_a_server_that_is_away_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    (each,) = examine_prefect()
    assert each.state == "bad"
    assert "unset it" in each.cure
