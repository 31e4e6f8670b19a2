"""Ctrl-C and SIGTERM end a command within seconds, with one line and nothing left running.

The bytes that say so come from the interpreter's own handler, which answers in the midst of a long
computation; whatever libraries print on their way out goes nowhere.
"""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import NoReturn

import psutil

SENTENCE = "interrupted; the same command goes on"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# For Prefect to be told that the run has ended, and for files to be closed.
_SECONDS_TO_END = 2.0
_SHOW_CURSOR = b"\x1b[?25h"


class Interruption:
    """Hears signals from when it is made until :meth:`leave`."""

    def __init__(self) -> None:
        self._received = False
        self._said, self._main_ended = threading.Event(), threading.Event()
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._before = {number: signal.signal(number, self._raise) for number in _SIGNALS}
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._wait, args=(read,), daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """End this process if a signal came, with 128 and its number; else hear no more."""
        if not self._received:
            signal.set_wakeup_fd(-1)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            os.close(self._write)
        self._main_ended.set()
        self._thread.join()

    def _raise(self, number: int, _frame: FrameType | None) -> NoReturn:
        self._received = True
        # Again, should a library have taken the interpreter's own message.
        with contextlib.suppress(OSError):
            os.write(self._write, bytes([number]))
        # Before anything else is said of it.
        self._said.wait(_SECONDS_TO_END)
        raise KeyboardInterrupt

    def _wait(self, read: int) -> None:
        with os.fdopen(read, "rb", buffering=0) as heard:
            number = 0
            while number not in _SIGNALS:
                byte = heard.read(1)
                if not byte:
                    return
                (number,) = byte
        # Prefect has a handler of its own for one of them while a flow runs.
        self._received = True
        _say_last(SENTENCE)
        self._said.set()
        self._main_ended.wait(_SECONDS_TO_END)
        _end_children()
        os._exit(128 + number)


def _say_last(sentence: str) -> None:
    """Print a line, and nothing any more after it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    is_terminal = [os.isatty(1), os.isatty(2)]
    line = f"{sentence}\n".encode()
    if is_terminal[0]:
        # A progress bar has hidden the cursor, and stands in the line.
        with contextlib.suppress(OSError):
            os.write(1, _SHOW_CURSOR)
    os.dup2(nowhere, 1)
    with contextlib.suppress(OSError):
        os.write(2, (b"\n" if all(is_terminal) else b"") + line)
    os.dup2(nowhere, 2)


def _end_children() -> None:
    """Kill what this process started: none of it is of use alone, and all of it may be killed."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=0.5)
