"""What a claim says of the process that works on something, and whether that process lives."""

import json
import os
import platform
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

# Start times of one process that are read at different moments differ by less.
_START_SECONDS = 5.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its claim tells."""

    host: str
    pid: int
    since: str
    """UTC, ISO 8601."""
    place: str
    """The process numbers that ``pid`` is one of: a running machine, a container on it."""
    started: float
    """When the process began, as its machine tells: process numbers are used again."""
    token: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to have ended; False where this cannot be seen from here."""
        if self.place != _place():
            return False
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            return abs(_started(process) - self.started) > _START_SECONDS
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False


def own_claim() -> bytes:
    """Return a claim of this process, another one at each call."""
    holder = Holder(
        host=platform.node(),
        pid=os.getpid(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        place=_place(),
        started=_started(psutil.Process()),
        token=secrets.token_hex(8),
    )
    return json.dumps(asdict(holder)).encode()


def parse_claim(claim: bytes) -> Holder | None:
    """The holder that a claim names.

    None for what cannot be read: a folder without hard links shows an empty object first.
    """
    try:
        return Holder(**json.loads(claim))
    except (ValueError, TypeError):
        return None


def _started(process: psutil.Process) -> float:
    """When a process began, in a measure that setting the clock does not move.

    Raises:
        psutil.Error: if the process has ended, or may not be looked at.
    """
    # On Linux psutil adds the machine's start, as the clock now has it; elsewhere nothing.
    return process.create_time() - (psutil.boot_time() if psutil.LINUX else 0)


def _place() -> str:
    """Name the process numbers seen here: two containers of one machine have different ones."""
    try:
        booted = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{booted} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()
