"""The folder of the private server: what it may take, and who may look into it."""

import os
import stat
from pathlib import Path

import pytest

from flows.orchestration import ephemeral
from flows.orchestration.ephemeral import LocalServer


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Put back what a server sets for the process that starts it.
    for name in (*ephemeral._QUIET, "PREFECT_HOME", "PREFECT_API_URL"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(ephemeral, "_DATABASE_BYTES", 1000)
    home = tmp_path / "prefect"
    home.mkdir()
    for name in ("prefect.db", "prefect.db-wal"):
        (home / name).write_bytes(bytes(600))
    (home / "memo_store.toml").write_text("kept")
    return home


def _is_old(home: Path) -> bool:
    return all((home / name).is_file() for name in ("prefect.db", "prefect.db-wal")) and (
        home / "prefect.db"
    ).read_bytes() == bytes(600)


def test_a_large_database_of_ended_servers_is_forgotten(home: Path) -> None:
    server = LocalServer(home)
    server.stop()
    assert not _is_old(home)
    assert (home / "memo_store.toml").read_text() == "kept"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_small_one_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ephemeral, "_DATABASE_BYTES", 1200)
    os.close(ephemeral._use(home))
    assert _is_old(home)


def test_one_that_another_server_uses_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ephemeral, "_DATABASE_BYTES", 2**20)
    server = LocalServer(home)
    monkeypatch.setattr(ephemeral, "_DATABASE_BYTES", 0)
    try:
        os.close(ephemeral._use(home))
        assert (home / "prefect.db-wal").is_file()
    finally:
        server.stop()
    os.close(ephemeral._use(home))
    assert not list(home.glob("prefect.db*"))
