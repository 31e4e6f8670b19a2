"""Of several runs that need the same thing, one makes it and the others wait."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from flows.reporting.base import reporter
from storage.artifacts import RECORD, problems, read_record, write_artifact
from storage.claim import Holder
from storage.lease import hold
from storage.root import Root


@contextlib.contextmanager
def exclusive(root: Root, name: str) -> Iterator[Callable[[], None]]:
    """Work on something that no other process works on; say for whom it is waited before.

    Under ``torchrun`` the main process holds for all of them: let the others wait for it inside.

    Yields:
        What to call before anything is written; it raises
        :class:`storage.errors.LeaseLostError` where another process has taken over.
    """
    # Only here: those who read what others made need no torch.
    from tintem_core.distributed import is_main

    if not is_main():
        yield lambda: None
        return

    def say(holder: Holder) -> None:
        reporter().note(f"{name}: waiting for {holder}")

    with hold(root, name, say) as lease:
        yield lease.confirm


def find_whole(
    root: Root, kind: str, id: str, say: Callable[[str], None] | None = None
) -> dict[str, Any] | None:
    """Return the record of an artifact whose every byte is as recorded; None: it is to be made.

    Args:
        say: is told what is damaged.
    """
    found = problems(root, kind, id)
    if not found:
        return read_record(root, kind, id)
    # Of one that was never finished, a record that is missing is no damage.
    if say is not None and root.exists(f"{kind}/{id}/{RECORD}"):
        told = "; ".join(f"{name}: {reason}" for name, reason in found.items())
        say(f"{kind}/{id} is damaged and made again ({told})")
    return None


def ensure_artifact(
    root: Root, kind: str, id: str, make: Callable[[], tuple[dict[str, bytes], dict[str, Any]]]
) -> tuple[dict[str, Any], bool]:
    """Make sure that an artifact is there.

    Args:
        make: computes its files and its record.

    Returns:
        The record, and whether it was there already, if only after waiting for another process.
    """
    record = find_whole(root, kind, id)
    if record is None:
        with exclusive(root, f"{kind}/{id}") as confirm:
            record = find_whole(root, kind, id, reporter().note)
            if record is None:
                files, record = make()
                confirm()
                write_artifact(root, kind, id, files, record)
                return record, False
    reporter().note(f"{kind.removesuffix('s')} {id}: reused")
    return record, True
