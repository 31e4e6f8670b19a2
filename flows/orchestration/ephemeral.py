"""A private Prefect server for one command, gone when the command is.

It runs beside the command as a process of its own, so that it starts while torch is imported,
and it ends when its standard input closes: even a SIGKILL of the parent leaves no orphan.
"""

import contextlib
import fcntl
import http.client
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HEARTBEAT_SECONDS = 30
_STARTUP_SECONDS = 120
# Nobody asks for what a private server knows of runs that have ended: some hundred of them fit.
_DATABASE_BYTES = 64 * 2**20
_QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "DO_NOT_TRACK": "1",
}


class LocalServer:
    """Starts at once, is ready later: see :meth:`wait`."""

    def __init__(self, home: Path) -> None:
        make_private(home)
        used = _use(home)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        environment = {
            **os.environ,
            **_QUIET,
            "PREFECT_HOME": str(home),
            "PREFECT_UI_ENABLED": "false",
            # The scheduler, late-run and event services have nothing to do in a single command.
            "PREFECT__SERVER_EPHEMERAL": "1",
        }
        self._log = home / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flows.orchestration.ephemeral", str(self._port)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment,
                # The command that Ctrl-C ends says so to the server that it still needs.
                start_new_session=True, pass_fds=(used,),
            )  # fmt: skip
        os.close(used)
        os.environ.update(_QUIET)
        os.environ["PREFECT_HOME"] = str(home)
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{self._port}/api"

    def wait(self) -> None:
        """Block until the server answers.

        Raises:
            TintemError: if it does not come up.
        """
        wait_for_server(os.environ["PREFECT_API_URL"], self._process, self._log)

    def stop(self) -> None:
        """End the server."""
        # Nothing is lost: every state of the run was acknowledged, and SQLite is crash-safe.
        self._process.kill()
        self._process.wait()


def make_private(folder: Path) -> None:
    """Make a folder that no other user can look into: a server's database has configs in it."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _use(home: Path) -> int:
    """Forget what ended servers have left of a folder, if it is much and no other server runs.

    Returns:
        A file descriptor with a lock; whoever keeps it open keeps the folder.
    """
    used = os.open(home / "used", os.O_CREAT | os.O_RDWR, 0o600)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
        database = list(home.glob("prefect.db*"))
        if sum(file.stat().st_size for file in database) > _DATABASE_BYTES:
            for file in database:
                file.unlink()
    fcntl.flock(used, fcntl.LOCK_SH)
    return used


def wait_for_server(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Block until a server that was started answers.

    Args:
        url: of its API.
        process: the server.
        log: the file that it writes to.

    Raises:
        TintemError: if it does not come up.
    """
    deadline = time.monotonic() + _STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if is_prefect(url):
            return
        time.sleep(0.05)
    # Imports torch, which whoever starts a server does meanwhile.
    from tintem_core.errors import TintemError

    raise TintemError(
        f"the local Prefect server did not start; its log is {log}. "
        "Set PREFECT_API_URL to use a server of your own."
    )


def is_prefect(url: str, patience: float = 5.0) -> bool:
    """Whether a Prefect server answers under the URL of its API, within so many seconds."""
    # What is no URL at all is a ValueError.
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        return _is_healthy(url, patience)
    return False


def require_server(url: str, cure: str) -> None:
    """Make sure that there is a Prefect server before Prefect's client looks for it.

    Args:
        url: of its API.
        cure: what to do where there is none.

    Raises:
        InputError: if none answers.
    """
    try:
        there = _is_healthy(url, patience=10.0)
    except urllib.error.HTTPError as error:
        # The key is the client's, not known here.
        there = error.code in (401, 403)
    except urllib.error.URLError as error:
        # So are certificates of one's own.
        there = isinstance(error.reason, ssl.SSLError)
    except (OSError, http.client.HTTPException, ValueError):
        there = False
    if not there:
        from tintem_core.errors import InputError

        raise InputError(f"no Prefect server answers at {url}: {cure}")


def _is_healthy(url: str, patience: float) -> bool:
    with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=patience) as answer:
        return bool(answer.status == 200 and answer.read() == b"true")


def data_folder() -> Path:
    """Return the folder of what belongs to this user and no run."""
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "tintem"


@contextlib.contextmanager
def no_heartbeats(server: LocalServer | None) -> Iterator[None]:
    """Switch flow heartbeats off for a private server, which ends with its only run anyway.

    Ending a heartbeat thread costs each flow up to a second.
    """
    if server is None:
        yield
        return
    from prefect.context import SettingsContext
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    flows = settings.flows.model_copy(update={"heartbeat_frequency": None})
    current = SettingsContext.get()
    assert current is not None
    with SettingsContext(
        profile=current.profile, settings=settings.model_copy(update={"flows": flows})
    ):
        yield


def has_own_server() -> bool:
    """Whether the user says where Prefect keeps what it knows of runs."""
    return any(
        name in os.environ for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME")
    )


@contextlib.contextmanager
def ensure_server() -> Iterator[LocalServer | None]:
    """Use the user's own Prefect server where one is configured, else start a private one.

    Raises:
        InputError: if PREFECT_API_URL names a server that does not answer.
    """
    if given := os.environ.get("PREFECT_API_URL"):
        require_server(given, "start it, or unset PREFECT_API_URL to run without one.")
    if has_own_server():
        os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        os.environ.setdefault("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", str(HEARTBEAT_SECONDS))
        # The terminal is told by the command itself; the server's page has the log.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        yield None
        return
    server = LocalServer(data_folder() / "prefect")
    try:
        yield server
    finally:
        server.stop()


def _main(port: int) -> None:
    def leave_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=leave_with_parent, daemon=True).start()
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True, host="127.0.0.1", port=port, log_level="error",
    )  # fmt: skip


if __name__ == "__main__":
    _main(int(sys.argv[1]))
