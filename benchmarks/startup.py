"""How long a command takes that has nothing to compute, as seconds and as ratios to Python alone.

``python``     ``python -c pass``.
``help``       ``tintem --help``.
``status``     ``tintem status CONFIG`` of a finished run.
``leaderboard`` of the same.
``mistake``    ``tintem run`` of a config with a wrong key.
``nothing``    ``tintem run`` of the finished run, on a private Prefect server.

Rounds alternate, and the median counts. Usage: python benchmarks/startup.py CONFIG [--rounds 3]
[--out FILE]; CONFIG is that of a finished run, such as tintem-quickstart/quickstart.yaml.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _photos import hardware, write_dated

from flows.provenance import provenance

TINTEM = [sys.executable, "-c", "from flows.cli import main; main()"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/…")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        wrong = Path(folder) / "wrong.yaml"
        wrong.write_text("root: results\nstudents: {}\n")
        seconds = measure(ways(options.config, wrong), options.rounds)
    alone = seconds["python"]
    for name, taken in seconds.items():
        print(f"{name:12} {taken:8.2f} s  {taken / alone:8.1f} times Python alone")
    result = {
        "hardware": hardware("cpu"),
        "load_before": load,
        "seconds": {name: round(taken, 3) for name, taken in seconds.items()},
        "ratio_to_python": {name: round(taken / alone, 1) for name, taken in seconds.items()},
        "provenance": provenance(),
    }
    write_dated(result, "startup", options.out)


def ways(config: Path, wrong: Path) -> dict[str, tuple[list[str], int]]:
    """Return commands by name, and the exit code that each must have."""
    return {
        "python": ([sys.executable, "-c", "pass"], 0),
        "help": ([*TINTEM, "--help"], 0),
        "status": ([*TINTEM, "status", str(config)], 0),
        "leaderboard": ([*TINTEM, "leaderboard", str(config)], 0),
        "mistake": ([*TINTEM, "run", str(wrong)], 2),
        "nothing": ([*TINTEM, "run", str(config)], 0),
    }


def measure(commands: dict[str, tuple[list[str], int]], rounds: int) -> dict[str, float]:
    """Return the median seconds of every command; the first round does not count."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, (command, wanted) in commands.items():
            begun = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != wanted:
                raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr}")
            if number:
                taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(found) for name, found in taken.items()}


if __name__ == "__main__":
    main()
