"""A student in a process of its own: with a GPU and threads of its own, and able to die alone.

    python -m flows.execution.students

The parent writes what to do to the standard input, a line of JSON, and keeps that open: when it
closes, even by a SIGKILL of the parent, the process ends. What the process reports comes back as
lines of JSON.
"""

import contextlib
import json
import os
import pkgutil
import subprocess
import sys
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flows.execution.child import (
    LastWords,
    PipeReporter,
    failure,
    leave_with_parent,
    raised_again,
    relay,
)
from flows.reporting.base import reporter, reporting_to
from tintem_core.errors import TintemError

if TYPE_CHECKING:
    from flows.config.run import RunConfig


class StudentError(TintemError):
    """A student whose process died; the message says how."""


def finish_in_process(
    work: str, config: "RunConfig", handed: dict[str, Any], environment: Mapping[str, str]
) -> dict[str, str]:
    """Train, evaluate and export a student in a new process that reports here.

    Args:
        work: ``module:function`` of (config, handed) that does it, and returns the ids.
        config, handed: what it is given.
        environment: what its environment has besides this process's.

    Returns:
        The ids of the student, its evaluation and its export.

    Raises:
        InputError, TintemError: if the process fails.
        UnreachableError: if what it meets may pass by itself.
        StudentError: if it is killed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.execution.students"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    last_words = LastWords(process.stderr, reporter().note)
    settings = config.model_dump(mode="json", exclude_unset=True)
    orders = json.dumps({"work": work, "config": settings, "handed": handed}) + "\n"
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
    from flows.config.load import parse_config
    from storage.errors import StorageError

    try:
        with reporting_to(reports):
            finish = pkgutil.resolve_name(order["work"])
            ids = finish(parse_config(order["config"], "the sweep"), order["handed"])
    except Exception as error:  # noqa: BLE001  # whatever it is, the parent is to know it
        if not isinstance(error, TintemError | StorageError):
            traceback.print_exc()
        reports.say(**failure(error))
    else:
        reports.say(ids=ids)


if __name__ == "__main__":
    _main()
