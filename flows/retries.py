"""A stage that meets an error which may pass by itself is run again by Prefect, later.

Prefect repeats a flow whatever went wrong, so it is told to do so only once such an error has come.
"""

import contextlib
from collections.abc import Iterator
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRunPolicy
from prefect.context import FlowRunContext

from flows.failures import may_pass
from flows.reporting import reporter

# Seconds before each further attempt. Beneath them, the client of the object store has already
# been patient for some minutes.
PAUSES = (10.0, 60.0, 300.0)


@contextlib.contextmanager
def patiently() -> Iterator[None]:
    """In a flow: have it run again, after a pause, when the block fails for what may pass."""
    try:
        yield
    except Exception as error:
        context = FlowRunContext.get()
        if context is not None and context.flow_run is not None:
            # Where Prefect cannot be reached either, the error itself is what counts.
            with contextlib.suppress(httpx.HTTPError):
                _set_policy(context.flow_run.id, error)
        raise


def _set_policy(run: UUID, error: Exception) -> None:
    """Tell Prefect whether a run that is about to fail is to be run again, and when."""
    with get_client(sync_client=True) as client:
        attempts = client.read_flow_run(run).run_count
        if may_pass(error) and attempts <= len(PAUSES):
            pause = PAUSES[attempts - 1]
            policy = FlowRunPolicy(retries=len(PAUSES), retry_delay=round(pause))
            client.update_flow_run(run, empirical_policy=policy)
            reporter().note(
                f"{error} Trying again in {pause:.0f} s (attempt {attempts + 1} of "
                f"{len(PAUSES) + 1})."
            )
        elif attempts > 1:
            client.update_flow_run(run, empirical_policy=FlowRunPolicy(retries=0))
