"""Progress as Prefect artifacts, notes as run logs."""

import contextlib
import re
import time
from collections.abc import Iterator
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.reporting import Advance

_SECONDS_BETWEEN_UPDATES = 5.0


class PrefectReporter:
    """Reports into the Prefect run that the code runs in."""

    @contextlib.contextmanager
    def track(self, title: str, total: int, unit: str) -> Iterator[Advance]:
        get_run_logger().info("%s: %s %s", title, total or "counting", unit)
        if not total:
            yield lambda _: None
            return
        key = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
        artifact = create_progress_artifact(0.0, key=key, description=f"{title} ({total:,} {unit})")
        assert isinstance(artifact, UUID)
        done, shown_at = 0, time.monotonic()

        def advance(more: int) -> None:
            nonlocal done, shown_at
            done += more
            if time.monotonic() - shown_at > _SECONDS_BETWEEN_UPDATES:
                shown_at = time.monotonic()
                update_progress_artifact(artifact, 100.0 * done / total)

        yield advance
        update_progress_artifact(artifact, 100.0)

    def note(self, text: str) -> None:
        get_run_logger().info(text)
