"""The quickstart's student with several seeds: the figures that it is chosen for.

Needs the demo packages. Run: python benchmarks/quickstart.py --help
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from flows.config.demo import prepare
from flows.config.load import load_config
from flows.config.variants import variant
from flows.provenance import provenance
from flows.stages.pipeline import Pipeline

# What the median of the seeds is to reach: metric, label, bound, whether a larger value is better.
GOALS = [
    ("student/test/r2_to_mapped", "R² of the mapped teacher", 0.65, True),
    ("student/test/same_photo_at_1", "same photo found first", 0.3, True),
    ("student/test/neighbour_overlap_10", "overlap@10", 0.55, True),
    ("student/all/pairwise_pearson", "Pearson over all sets", 0.85, True),
    ("student/poly-cells/fpr95", "FPR95 of poly-cells", 0.1, False),
    ("student/textiles/fpr95", "FPR95 of textiles", 0.01, False),
]
KNN = ("student/test/knn", "teacher/test/knn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("tintem-quickstart"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    config = load_config(prepare(options.folder))
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        run = Pipeline(variant(config, {"training.seed": seed}))
        metrics = run.evaluated.record["metrics"]
        found = {name: metrics[name] for name in (*(goal[0] for goal in GOALS), *KNN)}
        rows.append({"seed": seed, **found})
        print(json.dumps(rows[-1]), flush=True)
    text = table(rows)
    options.results.mkdir(parents=True, exist_ok=True)
    content = {"rows": rows, "provenance": provenance()}
    (options.results / "quickstart.json").write_text(json.dumps(content, indent=1))
    (options.results / "quickstart.md").write_text(text)
    print(text)


def table(rows: list[dict[str, Any]]) -> str:
    """Write the seeds beside the goals, Markdown."""
    machine = provenance()
    lines = [
        "# The quickstart's student",
        "",
        f"{len(rows)} seeds (initial weights and data order), on 213 photos never trained on; "
        f"{machine['cores']} cores, {machine['machine']}, {machine['created'][:10]}.",
        "",
        "The settings were chosen by looking at these same photos, among about a dozen tried with "
        "one seed: the figures flatter them.",
        "",
        "| | goal | median | " + " | ".join(f"seed {row['seed']}" for row in rows) + " |",
        "|---" * (3 + len(rows)) + "|",
    ]
    for name, label, bound, is_larger in GOALS:
        values = [row[name] for row in rows]
        goal = f"{'≥' if is_larger else '≤'} {bound:g}"
        lines.append(_line(label, goal, values))
    lost = [row[KNN[1]] - row[KNN[0]] for row in rows]
    lines.append(_line("kNN accuracy lost against the teacher", "≤ 0.03", lost))
    return "\n".join(lines) + "\n"


def _line(label: str, goal: str, values: list[float], digits: int = 3) -> str:
    numbers = " | ".join(f"{value:.{digits}f}" for value in (median(values), *values))
    return f"| {label} | {goal} | {numbers} |"


if __name__ == "__main__":
    main()
