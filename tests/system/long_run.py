"""Many nights on one machine with growing data: what stays behind after each of them.

`tintem up` in a data folder of its own, one run of the deployment `nightly` after the other, a few
new photos before each, `tintem gc` now and then. After each night: memory, threads and open files
of server and worker, the most that the night's own process had, the sizes of the root, of Prefect's
database and of the logs.

python -m tests.system.long_run --nights 100 --folder /tmp/nights --out nights.json
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from flows.provenance import provenance
from tests.photos import photo
from tests.runs import small_run, write_config
from tests.services import Machine, wait_until

FIRST_PHOTOS, NEW_PHOTOS, NIGHTS_PER_GC = 48, 2, 10
KEPT = 10
_LOOK_EVERY = 0.2


@dataclass(frozen=True)
class Left:
    """What there was after a night; bytes unless said otherwise."""

    night: int
    outcome: str
    seconds: float
    server: int
    server_threads: int
    server_files: int
    worker: int
    worker_threads: int
    worker_files: int
    processes: int
    run: int
    """The most that the night's own processes had together."""
    run_threads: int
    run_files: int
    root: int
    root_files: int
    database: int
    logs: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nights", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=None, help="default: one that goes after")
    parser.add_argument("--out", type=Path, default=None, help="JSON with a row per night")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        nights = []
        for left in many_nights(options.folder or Path(temporary), options.nights):
            nights.append(left)
            print(json.dumps(asdict(left)), flush=True)
            if options.out is not None:
                rows = [asdict(each) for each in nights]
                text = json.dumps({"nights": rows, "provenance": provenance()}, indent=1)
                options.out.write_text(text)
    print(growth(nights))


def many_nights(folder: Path, nights: int) -> Iterator[Left]:
    """Live through some nights; the services end with the block, whatever happens."""
    photos = folder / "photos"
    for number in range(FIRST_PHOTOS):
        _add(photos, number)
    config = write_config(folder, small_run(folder, photos) | {"nightly": {"gates": []}})
    machine = Machine(folder / "home")
    machine.up()
    try:
        for night in range(nights):
            if night:
                for new in range(NEW_PHOTOS):
                    _add(photos, FIRST_PHOTOS + NEW_PHOTOS * night + new)
            yield _one_night(machine, config, night)
            if (night + 1) % NIGHTS_PER_GC == 0:
                machine.tintem(
                    "gc", str(config), "--yes", "--unused", "--keep", str(KEPT), "--older-than", "0"
                )
    finally:
        machine.tintem("down")


def _add(photos: Path, number: int) -> None:
    path = photos / ("disc", "plain")[number % 2] / f"photo-{number:05d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    photo(number).save(path)


def _one_night(machine: Machine, config: Path, number: int) -> Left:
    begun = time.monotonic()
    with _most_of_the_run(machine) as most:
        run = machine.start(config, "nightly/nightly")
        wait_until(lambda: (state := machine.read(run).state) and state.is_final(), 600)
    ended = machine.read(run).state
    assert ended is not None
    assert ended.is_completed(), ended
    seconds = time.monotonic() - begun
    server, worker = machine.services.server(), machine.services.worker()
    assert server is not None
    assert worker is not None
    home, root = machine.services.home, config.parent / "root"
    stored = _sizes(root)
    return Left(
        night=number,
        outcome=str(ended.name),
        seconds=round(seconds, 1),
        server=server.memory_info().rss,
        server_threads=server.num_threads(),
        server_files=server.num_fds(),
        worker=worker.memory_info().rss,
        worker_threads=worker.num_threads(),
        worker_files=worker.num_fds(),
        processes=len(machine.services.processes()),
        run=most["bytes"],
        run_threads=most["threads"],
        run_files=most["files"],
        root=sum(stored),
        root_files=len(stored),
        database=sum(path.stat().st_size for path in home.glob("prefect.db*")),
        logs=sum(path.stat().st_size for path in home.glob("*.log")),
    )


@contextmanager
def _most_of_the_run(machine: Machine) -> Iterator[dict[str, int]]:
    most, over = {"bytes": 0, "threads": 0, "files": 0}, threading.Event()

    def look() -> None:
        while not over.wait(_LOOK_EVERY):
            try:
                tops = machine.services.runs().values()
                processes = [p for top in tops for p in (top, *top.children(recursive=True))]
                now = {
                    "bytes": sum(process.memory_info().rss for process in processes),
                    "threads": sum(process.num_threads() for process in processes),
                    "files": sum(process.num_fds() for process in processes),
                }
            except psutil.Error:
                continue
            most.update({name: max(value, most[name]) for name, value in now.items()})

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield most
    finally:
        over.set()
        looking.join()


def _sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


def growth(nights: Sequence[Left]) -> str:
    """Say what the last tenth of the nights has beside the second tenth, medians, Markdown."""
    tenth = max(1, len(nights) // 10)
    early, late = nights[tenth : 2 * tenth] or nights[:tenth], nights[-tenth:]
    lines = ["| | nights | | a night more |", "|---|---:|---:|---:|"]
    lines[0] = f"| | night {early[0].night}–{early[-1].night} | {late[0].night}–{late[-1].night} |"
    lines[0] += " a night more |"
    between = max(1, late[0].night - early[0].night)
    for name in Left.__dataclass_fields__:
        values = [getattr(each, name) for each in (early[0],)]
        if name == "night" or not isinstance(values[0], int | float):
            continue
        first, last = (statistics.median(getattr(e, name) for e in part) for part in (early, late))
        lines.append(f"| {name} | {first:,.0f} | {last:,.0f} | {(last - first) / between:,.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
