"""A student in a process of its own: with a GPU and threads of its own, and able to die alone.

    python -m flows.execution.students

The parent writes what to do to the standard input, a line of JSON, and keeps that open: when it
closes, even by a SIGKILL of the parent, the process ends. What the process reports comes back as
lines of JSON.
"""

import json
import os
import pkgutil
import sys
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flows.execution.child import (
    PipeReporter,
    from_error,
    leave_with_parent,
    run_child,
    to_error,
)
from flows.reporting.base import reporting_to
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
    settings = config.model_dump(mode="json", exclude_unset=True)
    orders = json.dumps({"work": work, "config": settings, "handed": handed}) + "\n"
    command = [sys.executable, "-m", "flows.execution.students"]
    ended = run_child(command, environment, orders.encode())
    if "ids" in ended.answer:
        ids: dict[str, str] = ended.answer["ids"]
        return ids
    if "failed" in ended.answer:
        failed = to_error(ended.answer)
        failed.add_note("\n".join(ended.stderr.lines))
        raise failed
    raise StudentError(f"its process {ended.ending}")


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
        reports.say(**from_error(error))
    else:
        reports.say(ids=ids)


if __name__ == "__main__":
    _main()
