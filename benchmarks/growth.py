"""How seconds and memory of every stage grow with the number of photos.

One run per size, each stage in a process of its own, on photos of 64 px cut out of real ones. The
teacher and the student are a single convolution each, so that what is measured is this project:
reading, decoding, views, shards, the mapping's fit, batches, measures. A first night puts the
student in force, and a second one finds one new photo in a hundred, which does not train. Beside
it "imports": a process that only imports the same.

``rows``   what needs no photos, for a million rows of 256 numbers drawn at random: planning,
           writing, opening and reading a cache, and the measures of as many test photos as an
           evaluation takes, among all others.

Needs the demo packages. Usage: python benchmarks/growth.py [--photos 1000 10000 100000]
       [--rows 1000000] [--folder FOLDER] [--out FILE]
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import yaml
from _photos import hardware, write_dated
from PIL import Image

from flows.config.demo import prepare
from flows.config.load import load_config
from flows.provenance import provenance
from flows.retraining.run import RetrainingRun
from flows.stages.pipeline import Pipeline
from flows.stages.results import MOST_TEST_PHOTOS
from storage.cache import CacheSpec, FeatureCache, KindSpec
from storage.root import open_root
from tintem_core.evaluation.bootstrap import Draws
from tintem_core.evaluation.faithfulness import faithfulness
from tintem_core.evaluation.neighbours import knn_accuracy
from tintem_core.evaluation.shared_space import shared_space

SIDE, EDGE, CROPS = 64, 300, 16
ROW_WIDTH = 256
MODELS = """
from torch import nn


def teacher():
    return nn.Sequential(nn.Conv2d(3, 256, 16, stride=16), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten())


def student(width=64):
    return nn.Sequential(nn.Conv2d(3, width, 16, stride=16), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten())
"""
Stage = Callable[[Any], object]
STAGES: dict[str, Stage] = {
    "imports": lambda _: None,
    "index": lambda config: Pipeline(config).indexed,
    "extract": lambda config: Pipeline(config).extracted,
    "map": lambda config: Pipeline(config).mapped,
    "train": lambda config: Pipeline(config).trained,
    "evaluate": lambda config: Pipeline(config).evaluated,
    "nothing": lambda config: Pipeline(config).evaluated,
    "first night": lambda config: RetrainingRun(config).run(),
    "night": lambda config: RetrainingRun(config).run(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/…")
    parser.add_argument("--stage", nargs=2, metavar=("STAGE", "CONFIG"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        measure_here(*options.stage)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        found: dict[str, dict[str, Any]] = {}
        for photos in options.photos:
            found[f"{photos} photos"] = grown(folder / str(photos), photos)
            print(json.dumps({photos: found[f"{photos} photos"]}), flush=True)
        if options.rows:
            found[f"{options.rows} rows"] = in_process("rows", f"{folder}:{options.rows}")
            print(json.dumps(found[f"{options.rows} rows"]), flush=True)
    result = {"hardware": hardware("cpu"), "load_after": os.getloadavg()[0], "found": found,
              "provenance": provenance()}  # fmt: skip
    write_dated(result, "growth", options.out)
    if len(options.photos) > 1:
        plot(found, Path(__file__).parent.parent / "docs" / "growth.png")
    print(table(found))


def grown(folder: Path, photos: int) -> dict[str, Any]:
    """Run every stage on so many photos, and a night with one more in a hundred."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = cuts(folder)
    write(folder / "photos", itertools.islice(cut, photos))
    (folder / "models.py").write_text(MODELS)
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump({
        "root": str(folder / "root"),
        "data": {"name": "cells", "uri": str(folder / "photos")},
        "teacher": {"python": "models:teacher", "image_size": SIDE},
        "views": {"count": 1},
        "mapping": {"width": 64, "steps": 100},
        "student": {"python": "models:student", "image_size": 32},
        "training": {"epochs": 1, "batch_size": 256, "support": 0},
        "nightly": {"growth": 0.5, "drift": None, "gates": []},
    }))  # fmt: skip
    found = {}
    for stage in STAGES:
        if stage == "night":
            write(folder / "photos", itertools.islice(cut, photos // 100))
        found[stage] = in_process(stage, str(config))[stage]
    return found


def cuts(folder: Path) -> Iterator[np.ndarray[Any, Any]]:
    """Cut squares out of solar-cell photos, each another one."""
    prepare(folder)
    lines = (folder / "mono-cells.csv").read_text().splitlines()[1:]
    lines += (folder / "poly-cells.csv").read_text().splitlines()[1:]
    cells = [line.split(",")[0] for line in lines]
    rng = np.random.default_rng(0)
    while True:
        for cell in cells:
            with Image.open(cell) as image:
                pixels = np.asarray(image.convert("RGB").resize((EDGE, EDGE)))
            for top, left in rng.integers(0, EDGE - SIDE, (CROPS, 2)).tolist():
                yield pixels[top : top + SIDE, left : left + SIDE]


def write(folder: Path, squares: Iterator[np.ndarray[Any, Any]]) -> None:
    """Write JPEG files, a thousand per folder."""
    known = sum(1 for _ in folder.rglob("*.jpg"))
    for number, square in enumerate(squares, start=known):
        path = folder / f"part-{number // 1000:04d}" / f"{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(square).save(path, quality=90)


def in_process(stage: str, argument: str) -> dict[str, Any]:
    """Measure a stage in a process of its own: seconds of it without imports, peak megabytes."""
    done = subprocess.run(
        [sys.executable, __file__, "--stage", stage, argument],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_here(stage: str, argument: str) -> None:
    """Do what :func:`in_process` asks for; the last line printed is what was measured."""
    found: dict[str, Any] = {}

    def measure(name: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        value = work()
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found[name] = {"seconds": round(seconds, 2), "megabytes": round(peak)}
        return value

    if stage == "rows":
        folder, _, rows = argument.rpartition(":")
        rows_only(Path(folder) / "rows", int(rows), measure)
    else:
        config = load_config(argument)
        measure(stage, lambda: STAGES[stage](config))
    print(json.dumps(found))


def rows_only(folder: Path, rows: int, measure: Callable[[str, Callable[[], Any]], Any]) -> None:
    """Do what grows with the number of rows and needs no photos."""
    kind = KindSpec(shape=(ROW_WIDTH,), dims=("feature",), dtype="float16")
    spec = CacheSpec(slug="rows", content={"rows": rows}, kinds={"global": kind}, views=1)
    keys = [f"{number:032x}" for number in range(rows)]
    rng = np.random.default_rng(0)
    cache = FeatureCache.create_or_open(open_root(str(folder)), spec)
    tasks = measure("plan", lambda: cache.plan(keys))

    def write_all() -> None:
        for task in tasks:
            values = rng.standard_normal((1, len(task.keys), ROW_WIDTH), np.float32)
            cache.write_shard(task, {"global": values.astype(np.float16)})

    measure("write", write_all)
    reader = measure("open", lambda: cache.reader(keys))
    measure("read all", reader.load_all)
    measure("plan again", lambda: cache.plan(keys))
    everything = measure("read all into one array", lambda: reader.all(0).astype(np.float32))
    tested = min(rows // 5, MOST_TEST_PHOTOS)
    test, train = everything[:tested], everything[rows // 5 :]
    answers = test + rng.standard_normal(test.shape, np.float32)
    labels = rng.integers(0, 10, rows)
    drawn: Draws = {"seed": 0, "resamples": 1000}
    measure("faithfulness", lambda: faithfulness(test, test, answers, **drawn))
    measure("shared space", lambda: shared_space(test, test, answers, **drawn))
    known, asked = labels[rows // 5 :], labels[:tested]
    measure("kNN", lambda: knn_accuracy(train, known, answers, asked, (10,)))


def table(found: dict[str, dict[str, Any]]) -> str:
    """Seconds and peak megabytes of each stage, Markdown; a column per size."""
    lines = []
    sizes = [name for name in found if name.endswith("photos")]
    for columns in (sizes, [name for name in found if name not in sizes]):
        if not columns:
            continue
        lines += [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
        for stage in found[columns[0]]:
            cells = [found[column][stage] for column in columns]
            told = " | ".join(f"{c['seconds']:,.1f} s, {c['megabytes']:,} MB" for c in cells)
            lines.append(f"| {stage} | {told} |")
        lines.append("")
    return "\n".join(lines)


def plot(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw seconds and peak memory against the number of photos."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sizes = [name for name in found if name.endswith("photos")]
    photos = [int(name.split()[0]) for name in sizes]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for stage in STAGES:
        style = {"color": "0.6", "linestyle": ":"} if stage == "imports" else {"marker": "o"}
        seconds = [max(found[size][stage]["seconds"], 0.01) for size in sizes]
        megabytes = [found[size][stage]["megabytes"] for size in sizes]
        if stage != "imports":
            left.plot(photos, seconds, label=stage, **style)
        right.plot(photos, megabytes, label=stage, **style)
    first = max(found[sizes[0]][stage]["seconds"] for stage in STAGES)
    linear = [first * count / photos[0] for count in photos]
    left.plot(photos, linear, color="0.6", linestyle=":", label="linear")
    left.set(yscale="log", ylabel="seconds")
    right.set(ylim=(0, None), ylabel="peak memory, MB")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="photos")
        axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
