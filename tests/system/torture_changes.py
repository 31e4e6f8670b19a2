"""The changes that a command makes below a folder, and its death just before one of them."""

import os
import re
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

# Python tells of each before it happens; `os.replace` is a rename. Of the arguments, where the path
# is, and where the open folder that a relative one starts from.
_CHANGES = {"os.rename": (1, 3), "os.link": (1, 3), "os.remove": (0, 1), "os.rmdir": (0, 1)}
_TOKEN = re.compile(r"\b[0-9a-f]{8,12}\b")
_NUMBER = re.compile(r"\b\d+\b")


class Doom(NamedTuple):
    """A process kills itself just before the first change of a kind that is in no diary yet.

    The shards of a cache, and the steps of a training, are changes of one kind. Claims on work are
    none, nor files that nobody else sees yet.
    """

    folder: str
    """Below which changes count."""
    diary: str
    """The file with the kinds of changes before which others have died, a line each."""

    def expect(self) -> None:
        """Wait for that change in this process, from now on."""
        met = set(Path(self.diary).read_text().splitlines())

        def look(event: str, given: tuple[Any, ...]) -> None:
            if event not in _CHANGES:
                return
            inside = os.path.relpath(_place(event, given), self.folder)
            if inside.startswith("..") or "leases" in inside or inside.endswith(".part"):
                return
            kind = f"{event} {_NUMBER.sub('#', _TOKEN.sub('token', inside))}"
            if kind not in met:
                with Path(self.diary).open("a") as diary:
                    diary.write(f"{kind}\n")
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(look)


def _place(event: str, given: tuple[Any, ...]) -> str:
    path, folder = (given[i] for i in _CHANGES[event])
    start = Path(f"/proc/self/fd/{folder}").readlink() if folder >= 0 else Path.cwd()
    return str(start / os.fspath(path))
