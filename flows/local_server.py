"""A private Prefect server for one command, gone when the command is.

It runs beside the command as a process of its own, so that it starts while torch is imported,
and it ends when its standard input closes: even a SIGKILL of the parent leaves no orphan.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

_STARTUP_SECONDS = 120

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
        home.mkdir(parents=True, exist_ok=True)
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
                [sys.executable, "-m", "flows.local_server", str(self._port)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment,
            )  # fmt: skip
        os.environ.update(_QUIET)
        os.environ["PREFECT_HOME"] = str(home)
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{self._port}/api"

    def wait(self) -> None:
        """Block until the server answers.

        Raises:
            RuntimeError: if it does not come up.
        """
        deadline = time.monotonic() + _STARTUP_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                url = f"{os.environ['PREFECT_API_URL']}/health"
                with urllib.request.urlopen(url, timeout=5) as answer:
                    if answer.status == 200:
                        return
            time.sleep(0.05)
        raise RuntimeError(
            f"the local Prefect server did not start; its log is {self._log}. "
            "Set PREFECT_API_URL to use a server of your own."
        )

    def stop(self) -> None:
        """End the server."""
        # Nothing is lost: every state of the run was acknowledged, and SQLite is crash-safe.
        self._process.kill()
        self._process.wait()


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


@contextlib.contextmanager
def ensure_server() -> Iterator[LocalServer | None]:
    """Use the user's own Prefect server where one is configured, else start a private one."""
    if any(name in os.environ for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME")):
        os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        yield None
        return
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    server = LocalServer(data / "tintem" / "prefect")
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
