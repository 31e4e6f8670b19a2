"""What Prefect costs: of every stage as a flow, and before the first stage of a local run.

``stages``    seconds of each stage of `distill` on a server of its own, with heartbeats, as a
              deployment has them. ``work`` is what the stage itself took, ``around`` what was spent
              around it (the flow run and its states, artifacts, the end of the heartbeats) and
              inside it on progress; ``share`` is around / work. ``plain`` is the same stage by the
              same pipeline without Prefect, in the same process and the same run, for comparison:
              it differs from ``work`` by the noise of the machine.
``default``   the same for the extraction of one shard of the default size, the unit that the goal
              of 1% is about: ``around`` is what the extraction's flow cost above.
``start_up``  seconds of `tintem run` without a server, from the command until the first stage
              begins (`· ready after`), and until Python has imported what it needs.

Usage: python benchmarks/orchestration.py [--rounds 3] [--photos 200] [--out FILE]
"""

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from flows.config.demo import prepare
from flows.orchestration.ephemeral import HEARTBEAT_SECONDS, LocalServer

# Before Prefect is imported.
os.environ["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = str(HEARTBEAT_SECONDS)

RESULTS = {
    "index": "indexed",
    "extract": "extracted",
    "map": "mapped",
    "train": "trained",
    "evaluate": "evaluated",
    "export": "exported",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/…")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        config = small_config(Path(folder), options.photos)
        start_up = measure_start_up(Path(folder), config, options.rounds)
        server = LocalServer(Path(folder) / "prefect")
        try:
            server.wait()
            stages = measure_stages(Path(folder), config, options.rounds)
        finally:
            server.stop()
    around = stages["extract"]["around"]
    rate = stages["extract"]["units"] / stages["extract"]["work"]
    seconds = stages["extract"]["default_shard_views"] / rate
    result = {
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "rounds": options.rounds,
        "photos": options.photos,
        "stages": stages,
        "default": {
            "views": stages["extract"]["default_shard_views"],
            "work": round(seconds, 1),
            "around": around,
            "share": round(around / seconds, 4),
        },
        "start_up": start_up,
    }
    show(result)
    out = options.out or Path(__file__).parent / "results" / "orchestration.json"
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten to {out}")


def small_config(folder: Path, photos: int) -> Path:
    """The quickstart's real teacher and photos, fewer of them."""
    settings: dict[str, Any] = yaml.safe_load(prepare(folder).read_text())
    settings["data"]["max_images"] = photos
    settings["training"]["epochs"] = 10
    for source in settings["evaluation"]["ood"]:
        source["max_images"] = 50
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def measure_start_up(folder: Path, config: Path, rounds: int) -> dict[str, float]:
    """`tintem run` of a run that is done already: nothing but starting and finding it done."""
    tintem = str(Path(sys.executable).parent / "tintem")
    environment = {n: v for n, v in os.environ.items() if not n.startswith("PREFECT_")}
    environment["XDG_DATA_HOME"] = str(folder / "home")

    def run() -> tuple[float, float]:
        started = time.monotonic()
        done = subprocess.run(
            [tintem, "run", str(config)], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        (ready,) = re.findall(r"ready after ([\d.]+) s", done.stdout)
        return float(ready), time.monotonic() - started

    # Once for the server's database and for Python's compiled files, which stay.
    first, _ = run()
    found = [run() for _ in range(rounds)]
    importing = []
    for _ in range(rounds):
        started = time.monotonic()
        subprocess.run([tintem, "--help"], check=True, capture_output=True, env=environment)
        importing.append(time.monotonic() - started)
    return {
        "until_first_stage_first_time": round(first, 2),
        "until_first_stage": round(statistics.median(ready for ready, _ in found), 2),
        "whole_command_when_all_is_done": round(statistics.median(all_ for _, all_ in found), 2),
        "of_that_before_our_code": round(statistics.median(importing), 2),
    }


def measure_stages(folder: Path, config: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Every round in new roots, with Prefect and without in turn; medians."""
    from flows.config.load import load_config
    from flows.stages.cache_requests import requested_caches
    from flows.stages.models import load_teacher
    from storage.cache.footprint import rows_per_shard

    base = load_config(config)
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in RESULTS}
    # Once unmeasured, for what libraries do at first use.
    for number in range(-1, rounds):
        plain = plain_seconds(base.model_copy(update={"root": str(folder / f"plain-{number}")}))
        with_prefect = flow_seconds(
            base.model_copy(update={"root": str(folder / f"flow-{number}")})
        )
        if number >= 0:
            for name in RESULTS:
                seen[name].append({"plain": plain[name], **with_prefect[name]})
    stages = {}
    for name, rows in seen.items():
        found = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        stages[name] = {key: round(value, 3) for key, value in found.items()}
        stages[name]["share"] = round(found["around"] / found["work"], 4)
    views = requested_caches(base, load_teacher(base.teacher, "cpu"))[0].spec
    rows = rows_per_shard(views, 10**9)
    stages["extract"]["default_shard_views"] = rows * views.views
    stages["extract"]["units"] = views_of(folder / f"flow-{rounds - 1}")
    return stages


def views_of(root: Path) -> int:
    """How many views the run embedded, in all caches."""
    from storage.cache import FeatureCache
    from storage.root import open_root

    opened = open_root(root)
    caches = [FeatureCache.open(opened, id) for id in opened.folders("caches")]
    return sum(cache.stats()["rows"] * cache.spec.views for cache in caches)


def plain_seconds(config: Any) -> dict[str, float]:
    pipeline = timed_pipeline(config)
    for result in RESULTS.values():
        getattr(pipeline, result)
    return {name: pipeline.seconds[result] for name, result in RESULTS.items()}


def flow_seconds(config: Any) -> dict[str, dict[str, float]]:
    """Return the seconds of work, and of everything around it, of every stage."""
    from flows.distill import STAGES, sharing

    pipeline = timed_pipeline(config)
    found = {}
    with sharing(pipeline):
        for name, result in RESULTS.items():
            with progress_cost() as told:
                started = time.monotonic()
                STAGES[name](config)
                whole = time.monotonic() - started
            work = pipeline.seconds[result] - told()
            found[name] = {"work": work, "around": whole - work}
    return found


@contextmanager
def progress_cost() -> Iterator[Callable[[], float]]:
    """Add up what telling Prefect about progress costs inside the block."""
    from flows.orchestration import reporter as prefect_reporting

    spent = 0.0
    show_progress = prefect_reporting._Progress.show

    def timed(self: Any) -> None:
        nonlocal spent
        started = time.monotonic()
        show_progress(self)
        spent += time.monotonic() - started

    prefect_reporting._Progress.show = timed  # type: ignore[method-assign]
    try:
        yield lambda: spent
    finally:
        prefect_reporting._Progress.show = show_progress  # type: ignore[method-assign]


def timed_pipeline(config: Any) -> Any:
    """A pipeline that notes how long each of its results took, without those before it."""
    from flows.stages.pipeline import Pipeline

    class Timed(Pipeline):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.seconds: dict[str, float] = {}

    def watched(name: str) -> cached_property[Any]:
        original = vars(Pipeline)[name]

        def measure(self: Timed) -> Any:
            started = time.monotonic()
            value = original.func(self)
            self.seconds[name] = time.monotonic() - started
            return value

        return cached_property(measure)

    for name in RESULTS.values():
        watcher = watched(name)
        watcher.__set_name__(Timed, name)
        setattr(Timed, name, watcher)
    return Timed(config)


def show(result: dict[str, Any]) -> None:
    print(f"{'stage':<10}{'plain s':>10}{'work s':>10}{'around s':>10}{'share':>9}")
    for name, row in result["stages"].items():
        print(
            f"{name:<10}{row['plain']:>10.2f}{row['work']:>10.2f}{row['around']:>10.2f}"
            f"{row['share']:>9.2%}"
        )
    shard = result["default"]
    print(
        f"\na default shard of {shard['views']:,} views would take {shard['work']:.0f} s: "
        f"{shard['share']:.2%} around it"
    )
    print("start-up: " + ", ".join(f"{k} {v} s" for k, v in result["start_up"].items()))


if __name__ == "__main__":
    main()
