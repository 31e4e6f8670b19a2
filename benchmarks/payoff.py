"""What the cache saves: a training step with the teacher on-line against one with the cache.

Both train the same student on the same pixels in memory with the same batch; on-line the teacher
embeds each batch first, cached its latents are read. The cache costs one teacher pass over every
cached view; after so many epochs (of all students together) it is paid for.
With ``--lightly PYTHON``, an interpreter that has lightly-train and timm, its distillation step is
measured too where it has the same teacher: photos decoded and augmented as it does by itself.
Needs the demo packages. Run: python benchmarks/payoff.py --help
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _photos import link_photos
from _teachers import write_random_weights

from flows.config.demo import prepare
from flows.config.load import parse_config
from flows.config.run import RunConfig
from flows.data.features import taught_latents
from flows.data.loader import PixelStore, StepDataset, Taught
from flows.data.rendering import view_source
from flows.provenance import provenance
from flows.stages.map import load_mapping
from flows.stages.models import load_teacher
from flows.stages.pipeline import Pipeline
from tintem_core.models.device import place
from tintem_core.models.student import build_student
from tintem_core.objectives.base import Parts
from tintem_core.objectives.registry import build_objective
from tintem_core.training.loop import train
from tintem_core.training.state import Batch, start_training

# Teacher and its input, student and its input. The speed of a teacher does not depend on its
# weights: where the demo packages have none, random ones are taken.
PAIRS = (
    ("tf_efficientnet_lite0", 128, "test_resnet", 64),
    ("vit_small_patch14_dinov2", 224, "vit_tiny_patch16_224", 224),
    ("vit_small_patch16_224", 224, "vit_tiny_patch16_224", 224),
    ("vit_base_patch16_224", 224, "vit_tiny_patch16_224", 224),
)
# The same teachers in LightlyTrain.
LIGHTLY = {"vit_small_patch14_dinov2": "dinov2/vits14-noreg-notpretrained"}
QUICK_PAIRS = (("test_efficientnet", 64, "test_resnet", 32),)


def measure(folder: Path, pair: tuple[str, int, str, int], options: Any) -> dict[str, Any]:
    """Time one pair of models; seconds are medians over steps, after one that warms up."""
    config = _config(folder, pair, options)
    pipeline = Pipeline(config)
    started = time.perf_counter()
    extracted = pipeline.extracted
    extraction = time.perf_counter() - started
    source = view_source(config, pipeline.indexed.data, "train")
    small = PixelStore(source, config.student.image_size, config.views.count, 2**33)
    large = PixelStore(source, config.teacher.image_size, config.views.count, 2**33)
    latents = taught_latents(pipeline.root, extracted, pipeline.indexed.data, "train")
    cached = StepDataset(Taught(small, latents), options.batch, seed=0)
    seen_by_teacher = StepDataset(Taught(large, latents), options.batch, seed=0)
    teacher = load_teacher(config.teacher, config.runtime.device)
    steps = options.steps + 1
    for number in range(steps):
        # Rendered before the clock starts: both ways train on pixels in memory.
        cached[number], seen_by_teacher[number]

    def from_cache() -> Iterator[Batch]:
        return (cached[number] for number in range(steps))

    def on_line() -> Iterator[Batch]:
        for number in range(steps):
            pixels = seen_by_teacher[number].pixels.numpy()
            found = torch.from_numpy(teacher.embed(pixels).embedding)
            yield cached[number]._replace(latents=found)

    seconds = {
        "cached": _step_seconds(config, pipeline, from_cache),
        "on-line": _step_seconds(config, pipeline, on_line),
    }
    pixels = seen_by_teacher[0].pixels.numpy()
    teacher_step = _median(lambda: teacher.embed(pixels), options.steps)
    saved = seconds["on-line"] - seconds["cached"]
    lightly = None
    if options.lightly is not None and pair[0] in LIGHTLY:
        uris = pipeline.indexed.data.uris("train")
        lightly = _lightly_seconds(folder, uris, pair, options)
    return {
        "lightly-train": lightly,
        "teacher": f"{pair[0]}, {pair[1]} px",
        "student": f"{pair[2]}, {pair[3]} px",
        "batch": options.batch,
        "on-line": seconds["on-line"],
        "cached": seconds["cached"],
        "ratio": seconds["on-line"] / seconds["cached"],
        "teacher_alone": teacher_step,
        # Per batch of images: every view of it goes through the teacher once.
        "break_even_epochs": {
            str(views): math.ceil(views * teacher_step / saved) if saved > 0 else None
            for views in (2, 4, 8)
        },
        "extraction_seconds": extraction,
    }


def _lightly_seconds(
    folder: Path, photos: list[str], pair: tuple[str, int, str, int], options: Any
) -> float:
    """Return the median time of LightlyTrain's distillation step, waiting for data included."""
    place = folder / "lightly-photos"
    link_photos(place, photos)
    wanted = {
        "photos": str(place), "out": str(folder / "lightly"), "teacher": LIGHTLY[pair[0]],
        "student": pair[2], "batch": options.batch, "epochs": None, "steps": options.steps,
        "image_size": 224, "seed": 0, "stages": None, "learning_rate": None, "mean": None,
        "std": None, "keep": None,
    }  # fmt: skip
    settings = folder / "lightly.json"
    settings.write_text(json.dumps(wanted))
    told = subprocess.run(
        [options.lightly, Path(__file__).with_name("_lightly_train.py"), settings],
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout  # fmt: skip
    return statistics.median(json.loads(told.splitlines()[-1])["seconds"])


def _step_seconds(
    config: RunConfig, pipeline: Pipeline, batches: Callable[[], Iterator[Batch]]
) -> float:
    """Return the median time of a training step, the wait for its batch included."""
    mapping = load_mapping(config, pipeline.root, pipeline.mapped)
    width = pipeline.mapped.record["spec"]["width"]
    student = place(build_student(config.student, width, 0), "cpu")
    run = start_training(
        student,
        build_objective(config.training.objective, Parts(mapping, config.training)),
        config.training,
        1,
    )
    moments = [time.perf_counter()]
    train(
        run,
        batches(),
        config.training,
        1,
        save=lambda _step, _checkpoint: None,
        save_every_s=math.inf,
        on_step=lambda _step, _loss: moments.append(time.perf_counter()),
    )
    assert len(moments) == config.training.epochs + 1
    return statistics.median(b - a for a, b in itertools.pairwise(moments[1:]))


def _median(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _config(folder: Path, pair: tuple[str, int, str, int], options: Any) -> RunConfig:
    teacher, teacher_size, student, student_size = pair
    prepare(folder)
    weights = folder / "teacher.safetensors"
    if teacher != "tf_efficientnet_lite0":
        weights = folder / f"{teacher}.safetensors"
        write_random_weights(weights, teacher, teacher_size)
    settings = {
        "root": str(folder / "root"),
        "data": {
            "name": "mono-cells",
            "uri": str(_shortened(folder, 2 * options.batch)),
            "label_column": "label",
        },
        "teacher": {"model": teacher, "image_size": teacher_size, "weights": str(weights)},
        "views": {"count": 2},
        "mapping": {"objective": "svd"},
        "student": {"model": student, "image_size": student_size},
        # One step is one epoch here: the schedule and the history cost what they cost anywhere.
        "training": {"epochs": options.steps + 1, "batch_size": options.batch, "support": 0},
        "runtime": {"device": "cpu"},
    }
    return parse_config(settings, "benchmark")


def _shortened(folder: Path, images: int) -> Path:
    """List a part of the photos, so that about ``images`` of them are for training."""
    header, *lines = (folder / "mono-cells.csv").read_text().splitlines()
    path = folder / "some-cells.csv"
    path.write_text("\n".join([header, *lines[: round(images * 1.6)]]) + "\n")
    return path


def table(rows: list[dict[str, Any]], found: dict[str, Any]) -> str:
    """Write the measurements as Markdown."""
    lines = [
        "# What the cache saves",
        "",
        "Seconds per training step, median; pixels in memory. Break-even: epochs, summed over all "
        "students trained from the cache, after which extracting 2 / 4 / 8 views of every image "
        "has paid for itself.",
        "",
        "LightlyTrain: its own distillation step, photos decoded and augmented by itself.",
        "",
        "| teacher | student | batch | LightlyTrain | on-line | cached | on-line / cached "
        "| break-even epochs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        even = " / ".join(str(v) for v in row["break_even_epochs"].values())
        lines.append(
            f"| {row['teacher']} | {row['student']} | {row['batch']} | {_shown(row)} | "
            f"{row['on-line']:.3f} s | "
            f"{row['cached']:.3f} s | {row['ratio']:.1f}× | {even} |"
        )
    where = f"{found['cores']} cores ({found['machine']}), {found['torch_threads']} threads"
    lines += ["", f"{where}, torch {found['packages']['torch']}, {found['created'][:10]}.", ""]
    return "\n".join(lines)


def _shown(row: dict[str, Any]) -> str:
    seconds = row["lightly-train"]
    return "–" if seconds is None else f"{seconds:.3f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run with tiny models")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8, help="steps timed per pair and way")
    parser.add_argument("--lightly", type=Path, help="an interpreter that has lightly-train")
    parser.add_argument("--folder", type=Path, default=Path("build/bench-payoff"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    pairs = QUICK_PAIRS if options.quick else PAIRS
    rows = [measure(folder, pair, options) for pair in pairs]
    found = provenance()
    target = folder if options.quick else options.results
    target.mkdir(parents=True, exist_ok=True)
    (target / "payoff.json").write_text(json.dumps({"rows": rows, "provenance": found}, indent=1))
    text = table(rows, found)
    (target / "payoff.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
