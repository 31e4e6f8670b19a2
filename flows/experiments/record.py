"""What a root remembers of a sweep: its students by name, what failed, leaderboard and plot."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flows.provenance import provenance
from flows.stages.ensure import exclusive
from storage.artifacts import list_artifacts, read_file, read_record, write_artifact
from storage.identity import make_id
from storage.root import Root

SWEEPS = "sweeps"
PLOT, TABLE = "faithfulness-against-size.png", "leaderboard.parquet"


@dataclass(frozen=True)
class Entry:
    """A student of a sweep, whether it is there yet or not."""

    name: str
    variant: str
    """The name without the seed."""
    student: str
    failed: str | None = None
    """Why it failed when it was last tried."""


def sweep_id(data: str, entries: Sequence[Entry]) -> str:
    """Return the id of a sweep: the same students are the same sweep, whatever their names."""
    return make_id(f"{data}-sweep", {"students": sorted(entry.student for entry in entries)})


def write_sweep(
    root: Root, id: str, entries: Sequence[Entry], at_once: int, files: dict[str, bytes]
) -> None:
    """Remember a sweep; ``at_once`` is how many students ran side by side on a machine."""
    record = {
        "students": [asdict(entry) for entry in entries],
        "at_once": at_once,
        "provenance": provenance(),
    }
    with exclusive(root, f"{SWEEPS}/{id}") as confirm:
        confirm()
        write_artifact(root, SWEEPS, id, files, record)


def entries_of(root: Root, id: str) -> list[Entry]:
    """Return what is remembered of a sweep's students; nothing, where there is no such sweep."""
    record = read_record(root, SWEEPS, id)
    return [] if record is None else [Entry(**entry) for entry in record["students"]]


def files_of(root: Root, id: str) -> dict[str, bytes]:
    """Return the leaderboard and the plot that a sweep has by now, by name."""
    record = read_record(root, SWEEPS, id)
    names = [] if record is None else record["files"]
    return {name: read_file(root, SWEEPS, id, name) for name in names}


def read_sweeps(root: Root) -> list[dict[str, Any]]:
    """Return the records of all sweeps that are whole, the newest first."""
    return [thing.record for thing in reversed(list_artifacts(root, SWEEPS))]
