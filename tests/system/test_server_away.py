"""A Prefect server that is not there: a sentence with the cure, and no traceback."""

import http.server
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.commands import app
from flows.orchestration.ephemeral import ensure_server, is_prefect, require_server, wait_for_server
from flows.orchestration.services import given_api
from tintem_core.errors import InputError, TintemError

# The port of "discard", where nobody listens.
NOBODY = "http://127.0.0.1:9/api"


@pytest.fixture(autouse=True)
def nothing_is_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """The URL of a server that says this to every GET of a proper path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if "//" in self.path else status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api"
        finally:
            server.shutdown()
            thread.join()


def refusal(*arguments: str) -> str:
    """What the command says when it refuses."""
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, InputError), repr(error)
    return str(error)


@pytest.mark.parametrize("command", ["deploy", "schedule", "run", "train", "sweep", "nightly"])
def test_a_server_that_was_ended_is_one_sentence(
    command: str, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", NOBODY)
    if command == "schedule":
        arguments = ["schedule", "--off"]
    else:
        arguments = [command] if command == "deploy" else [command, str(config_file)]
    said = refusal(*arguments)
    assert f"no Prefect server answers at {NOBODY}: " in said
    assert "unset PREFECT_API_URL" in said


def test_up_refuses_another_machines_server_that_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A name that no resolver may know (RFC 2606).
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.invalid:4200/api")
    said = refusal("up")
    assert "no Prefect server answers at http://prefect.invalid:4200/api: " in said


@pytest.mark.parametrize("url", [NOBODY, "http://prefect.invalid/api", "4200", "http://[::1/api"])
def test_what_does_not_answer_is_no_server(url: str) -> None:
    assert not is_prefect(url)
    with pytest.raises(InputError, match=r"no Prefect server answers at .*: start it"):
        require_server(url, "start it")


@pytest.mark.parametrize(
    ("status", "body", "there"),
    [(200, b"true", True), (200, b"<html>", False), (404, b"", False), (401, b"", True)],
)
def test_only_prefect_or_who_wants_a_key_is_a_server(
    status: int, body: bytes, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status, body) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        if there:
            with ensure_server() as private:
                assert private is None
        else:
            with pytest.raises(InputError, match="no Prefect server answers"), ensure_server():
                raise AssertionError("not refused")


def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert given_api() is None


def test_a_server_here_has_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200, b"true") as url:
        monkeypatch.setenv("PREFECT_API_URL", url.replace("127.0.0.1", "localhost") + "/")
        assert given_api() == url
        require_server(url + "/", "start it")


@pytest.mark.parametrize("port", ["70000", "42x"])
def test_a_port_that_cannot_be_is_one_sentence(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    assert "has no valid port" in refusal("up")


def test_a_server_that_ends_at_once_is_one_sentence_with_its_log(tmp_path: Path) -> None:
    process = subprocess.Popen(["false"])
    process.wait()
    with pytest.raises(TintemError, match=r"did not start; its log is .*server\.log"):
        wait_for_server(NOBODY, process, tmp_path / "server.log")
