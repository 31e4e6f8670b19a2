"""A student in a process of its own: with a GPU and threads of its own, and able to die alone.

    python -m flows.sweeps.process

The parent writes what to do to the standard input, a line of JSON, and keeps that open: when it
closes, even by a SIGKILL of the parent, the process ends. What the process reports comes back as
lines of JSON.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flows.machines.relay import (
    LastWords,
    PipeReporter,
    failure,
    leave_with_parent,
    raised_again,
    relay,
)
from flows.reporting import reporter, reporting_to
from tintem_core.errors import TintemError

if TYPE_CHECKING:
    from flows.config import RunConfig


class Places:
    """So many students at once; each has its share of the cores, and the GPU whose turn it is."""

    def __init__(self, count: int, gpus: Sequence[str]) -> None:
        self.count = count
        self._free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        threads = max(1, (os.cpu_count() or 1) // count)
        for number in range(count):
            place = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
            if gpus:
                place["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
            self._free.put(place)

    @contextlib.contextmanager
    def one(self) -> Iterator[dict[str, str]]:
        """Take a place, waiting for a free one: what the environment of its process has besides."""
        place = self._free.get()
        try:
            yield place
        finally:
            self._free.put(place)


def places(config: "RunConfig") -> Places | None:
    """Return where the students of a sweep run; None: one after the other in this process."""
    if config.runtime.processes > 1:
        return None
    gpus = _gpus(config.runtime.device)
    wanted = None if config.sweep is None else config.sweep.at_once
    if wanted is None and len(gpus) > 1:
        wanted = len(gpus)
    return None if wanted is None else Places(wanted, gpus)


def _gpus(device: str) -> list[str]:
    """Name the GPUs that may be dealt out, as CUDA_VISIBLE_DEVICES would."""
    if device not in ("auto", "cuda"):
        return []
    import torch

    numbers = [str(number) for number in range(torch.cuda.device_count())]
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return named[: len(numbers)] if named != [""] else numbers


class StudentError(TintemError):
    """A student whose process died; the message says how."""


def finish_in_process(
    config: "RunConfig", handed: dict[str, Any], environment: Mapping[str, str]
) -> dict[str, str]:
    """Train, evaluate and export a student in a new process that reports here.

    Args:
        config, handed: see :func:`flows.sweeps.students.finish`.
        environment: what its environment has besides this process's.

    Returns:
        The ids of the student, its evaluation and its export.

    Raises:
        InputError, TintemError: if the process fails.
        UnreachableError: if what it meets may pass by itself.
        StudentError: if it is killed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.sweeps.process"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    last_words = LastWords(process.stderr, reporter().note)
    settings = config.model_dump(mode="json", exclude_unset=True)
    orders = json.dumps({"config": settings, "handed": handed}) + "\n"
    try:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(orders.encode())
            process.stdin.flush()
        answer = relay(process.stdout, reporter())
        process.wait()
    finally:
        process.kill()
        process.wait()
        last_words.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    if "ids" in answer:
        ids: dict[str, str] = answer["ids"]
        return ids
    if "failed" in answer:
        failed = raised_again(answer)
        failed.add_note("\n".join(last_words.lines))
        raise failed
    raise StudentError(f"its process {last_words.told(process.returncode)}")


def _main() -> None:
    reports = PipeReporter.of_standard_output()
    orders = os.fdopen(os.dup(0), "rb")
    order = json.loads(orders.readline())
    leave_with_parent(orders)
    from flows.config import parse_config
    from flows.sweeps.students import finish
    from storage.errors import StorageError

    try:
        with reporting_to(reports):
            ids = finish(parse_config(order["config"], "the sweep"), order["handed"])
    except Exception as error:  # noqa: BLE001  # whatever it is, the parent is to know it
        if not isinstance(error, TintemError | StorageError):
            traceback.print_exc()
        reports.say(**failure(error))
    else:
        reports.say(ids=ids)


if __name__ == "__main__":
    _main()
