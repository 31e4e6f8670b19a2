"""TinTeM against LightlyTrain: the same photos, teacher, student, batch, core and seconds.

On the quickstart's solar cells, EfficientNet-Lite0 at 128 px is distilled into its own first four
stages at 64 px, which begin with its weights. LightlyTrain shows teacher and student the same
pixels: it is tried at 64 and at 128 px, and its student is measured at 64 px either way. Each has
one core to itself, both at the same time, and changes it with the seed. For TinTeM the seconds
begin before the photos are indexed, so that extraction and mapping count; for LightlyTrain at its
first step. Importing counts for neither. Both are told how many epochs to train: those that fit, by
what a first, short training took; what they took is written beside.

TinTeM's settings are the quickstart's, with as many views as a third of the seconds give.
LightlyTrain's are its own for the method `distillationv3`, but for size and learning rate: those
with the best R@1 in the shortest time, of both sizes, its own rate and ``--rates``.

Needs the demo packages, and an interpreter that has lightly-train, timm and the same torch.
Run: python benchmarks/versus.py --lightly PYTHON [--seconds 60 120 240] [--seeds 0 1 2]
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from _photos import hardware, write_dated
from _versus_lightly import BATCH, STUDENT_SIZE, TEACHER_SIZE, Choice, Lightly, started, told

from flows.config.demo import prepare
from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.config.variants import variant
from flows.provenance import provenance
from flows.stages.pipeline import Pipeline

SYNTHETIC = 500
MEASURES = {
    "r2_to_mapped": "R²",
    "same_photo_at_1": "same photo R@1",
    "shared_overlap_10": "teacher's 10 neighbours found",
    "pairwise_pearson": "Pearson",
    "neighbour_overlap_10": "overlap@10",
    "knn": "kNN",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lightly", type=Path, required=True, help="python with lightly-train")
    parser.add_argument("--seconds", type=int, nargs="+", default=[60, 120, 240])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="*", default=[2e-3, 8e-3])
    parser.add_argument("--folder", type=Path, default=Path("build/bench-versus"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--ours", nargs=2, metavar=("SECONDS", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.ours:
        torch.set_num_threads(1)
        print(json.dumps(ours(folder, *map(int, options.ours))))
        return
    folder.mkdir(parents=True, exist_ok=True)
    prepare(folder)
    result = compared(folder, options)
    write_dated(result, "versus", options.out)
    print(table(result))


def compared(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run both side by side, for every number of seconds and seed."""
    load = os.getloadavg()[0]
    look = Pipeline(settings(folder, "look", views=1))
    lightly = Lightly(options.lightly, folder, look)
    mine = _ours_started(folder, 0, 0, core=0)
    small = lightly.find_out(STUDENT_SIZE, core=1)
    (folder / "rates.json").write_text(json.dumps(told(mine)))
    large = lightly.find_out(TEACHER_SIZE, core=0)
    lightly.found_out(STUDENT_SIZE, small)
    lightly.found_out(TEACHER_SIZE, large)

    tried = []
    for rate in (None, *options.rates):
        choices = [Choice(size, rate) for size in (STUDENT_SIZE, TEACHER_SIZE)]
        both = [lightly.start(c, min(options.seconds), 0, core) for core, c in enumerate(choices)]
        for choice, training in zip(choices, both, strict=True):
            tried.append({**asdict(choice), **_shown(lightly.result(training))})
            print(json.dumps(tried[-1]), flush=True)
    best = max(tried, key=lambda row: float(row["same photo R@1"]))
    choice = Choice(best["image_size"], best["learning_rate"])

    rows = []
    for seed in options.seeds:
        for seconds in options.seconds:
            theirs = lightly.start(choice, seconds, seed, core=(seed + 1) % 2)
            mine = _ours_started(folder, seconds, seed, core=seed % 2)
            for who, found in (("TinTeM", told(mine)), ("LightlyTrain", lightly.result(theirs))):
                rows.append({"who": who, "budget": seconds, "seed": seed, **_shown(found)})
                print(json.dumps(rows[-1]), flush=True)
    return {
        "hardware": hardware("cpu"),
        "load_before": load,
        "lightly_train": lightly.version,
        "photos": lightly.photos,
        "bounds": bounds(look),
        "tried": tried,
        "rows": rows,
        "provenance": provenance(),
    }


def settings(folder: Path, root: str, views: int) -> RunConfig:
    """Return TinTeM's run, with its results in a folder of their own."""
    content = yaml.safe_load((folder / "quickstart.yaml").read_text())
    content |= {"root": root, "views": {"count": views}, "support": {"synthetic": SYNTHETIC}}
    content["training"] |= {"epochs": 2, "batch_size": BATCH}
    content["runtime"] = {"decode_threads": 1}
    # LightlyTrain embeds no photos that are only measured: neither should this, beside the test's.
    del content["evaluation"]
    path = folder / f"{root}.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_config(path)


def ours(folder: Path, seconds: int, seed: int) -> dict[str, Any]:
    """Distil with TinTeM for so many seconds; with 0, tell what its parts take.

    Runs in a process of its own, on one core.
    """
    rates = folder / "rates.json"
    known = json.loads(rates.read_text()) if seconds else None
    views = 1
    if known:
        extracted = seconds / 3 / known["view"]
        views = max(1, round((extracted - known["fixed_views"]) / known["train"]))
    root = f"ours-{seconds}-{seed}"
    # What a call before this one has left would be reused, and cost nothing.
    shutil.rmtree(folder / root, ignore_errors=True)
    started_at = time.perf_counter()
    config = variant(settings(folder, root, views), {"training.seed": seed})
    run = Pipeline(config)
    photos = len(run.indexed.data.keys("train"))
    assert run.extracted
    extraction = time.perf_counter() - started_at
    assert run.mapped
    prepared = time.perf_counter() - started_at
    if known is None:
        took = [_training_seconds(config, epochs) for epochs in (1, 3)]
        fixed = len(run.indexed.data.keys()) + SYNTHETIC
        return {"view": extraction / (fixed + photos), "fixed_views": fixed, "train": photos,
                "epoch": (took[1] - took[0]) / 2}  # fmt: skip
    epochs = max(1, round((seconds - prepared) / known["epoch"]))
    run = Pipeline(variant(config, {"training.epochs": epochs}))
    assert run.trained
    spent = time.perf_counter() - started_at
    metrics = run.evaluated.record["metrics"]
    measured = {name: metrics[f"student/test/{name}"] for name in MEASURES}
    return {"seconds": spent, "epochs": epochs, "extraction and mapping": prepared, "views": views,
            **measured}  # fmt: skip


def _training_seconds(config: RunConfig, epochs: int) -> float:
    begun = time.perf_counter()
    assert Pipeline(variant(config, {"training.epochs": epochs})).trained
    return time.perf_counter() - begun


def _ours_started(folder: Path, seconds: int, seed: int, core: int) -> Any:
    words = [sys.executable, __file__, "--lightly", "-", "--folder", folder]
    return started([*words, "--ours", seconds, seed], core)


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    """Return what was found with measures under their titles, and no others."""
    beside = ("seconds", "epochs", "extraction and mapping", "views")
    return {
        **{name: found[name] for name in beside if name in found},
        **{title: found[name] for name, title in MEASURES.items()},
    }


def bounds(run: Pipeline) -> dict[str, dict[str, float]]:
    """Return what the teacher reaches, and what chance or a constant answer does."""
    on_test = [row for row in run.evaluated.record["rows"] if row["dataset"] == "test"]
    chance = {row["name"]: row["chance"] for row in on_test if row["chance"] is not None}
    chance |= {row["name"]: row["value"] for row in on_test if row["subject"] == "constant"}
    teacher = {row["name"]: row["value"] for row in on_test if row["subject"] == "teacher"}
    return {
        who: {title: values[name] for name, title in MEASURES.items() if name in values}
        for who, values in (("chance", chance), ("teacher", teacher))
    }


def table(result: dict[str, Any]) -> str:
    """Write the measurements as Markdown: medians over the seeds."""
    titles = list(MEASURES.values())
    lines = ["| seconds | | took | epochs | " + " | ".join(titles) + " |"]
    lines.append("|---" * (4 + len(titles)) + "|")
    rows = result["rows"]
    for budget in sorted({row["budget"] for row in rows}):
        for who in ("TinTeM", "LightlyTrain"):
            same = [row for row in rows if (row["budget"], row["who"]) == (budget, who)]
            took, epochs = (
                statistics.median(row[n] for row in same) for n in ("seconds", "epochs")
            )
            cells = [f"{statistics.median(row[title] for row in same):.3f}" for title in titles]
            lines.append(
                f"| {budget} | {who} | {took:.0f} | {epochs} | " + " | ".join(cells) + " |"
            )
    for who, values in result["bounds"].items():
        cells = [f"{values[title]:.3f}" if title in values else "–" for title in titles]
        lines.append(f"| | {who} | | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
