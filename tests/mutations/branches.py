"""python -m tests.mutations.branches coverage.json --out FILE: branch coverage by folder."""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.mutations.report import machine, put_section, today

_COUNTED = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def coverage_section(measured: Mapping[str, Any]) -> str:
    """Statements and branches that were taken, by folder and of each package.

    Args:
        measured: as ``coverage json`` writes it.
    """
    rows: dict[str, list[int]] = defaultdict(lambda: [0] * len(_COUNTED))
    for file, found in measured["files"].items():
        folder, package = str(Path(file).parent), Path(file).parts[0]
        for name in {f"`{folder}`", f"**{package}**"}:
            counts = [found["summary"][key] for key in _COUNTED]
            rows[name] = [a + b for a, b in zip(rows[name], counts, strict=True)]
    lines = [
        "Of `tintem_core` and `storage`, by the quick tests of `tests/tintem_core` and "
        "`tests/storage` alone (`make coverage`); those of `tests/flows` take more. What runs in "
        "processes that tests start is not counted.",
        "",
        f"{today()}, {machine()}, coverage {measured['meta']['version']}.",
        "",
        "| folder | statements | taken | branches | taken |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in sorted(rows, key=lambda name: (name.strip("`*"), name)):
        statements, run, branches, taken = rows[name]
        cells = (f"{statements:,}", _share(run, statements), f"{branches:,}")
        lines.append(f"| {name} | {' | '.join(cells)} | {_share(taken, branches)} |")
    return "\n".join(lines)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def main() -> None:
    """Write the section of a Markdown file anew."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations.branches", description=__doc__)
    parser.add_argument("measured", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    section = coverage_section(json.loads(asked.measured.read_text()))
    print(section)
    put_section(asked.out, "Branch coverage", section)


if __name__ == "__main__":
    main()
