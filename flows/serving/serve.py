"""A service that listens until it is told to end, and then answers what it has taken."""

import contextlib
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from flows.serving.app import make_app
from flows.serving.current import Current
from flows.serving.limits import Limits
from flows.serving.links import Links
from tintem_core.errors import InputError

_LOOK_EVERY = 5.0
_SECONDS_TO_END = 10
_MIB = 2**20


def serve(
    current: Current,
    limits: Limits,
    listening: socket.socket,
    *,
    threads: int | None,
    allow_urls: bool,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C.

    Args:
        current: which student answers.
        limits: what is refused.
        listening: from :func:`listen`.
        threads: that embed; None: one per core.
        allow_urls: whether http(s) links to public hosts are fetched.
    """
    links = Links(allowed=allow_urls, most_bytes=limits.megabytes * _MIB)
    app = make_app(current, links, limits, threads or os.cpu_count() or 1, _LOOK_EVERY)
    config = uvicorn.Config(
        app,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    _Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        InputError: if the address is not of this machine, or the port is taken.
    """
    family = socket.AF_INET6 if _is_six(host) else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot listen at {host}, port {port}: {why.lower()}.") from error


def address_of(listening: socket.socket) -> str:
    """Return the URL that a socket listens at."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _is_six(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


class _Server(uvicorn.Server):
    """Ends at a signal, as a service is meant to, without raising it again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The command's own answer to a signal is for work that is cut off.
        wakeup = signal.set_wakeup_fd(-1)
        before: dict[int, Callable[..., object] | int | None] = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
