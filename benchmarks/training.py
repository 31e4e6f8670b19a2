"""How close training from the cache comes to the bare student's step, as ratios, in one run.

``student``  images per second of the student's step in plain torch (forward, cosine loss, backward,
             optimiser) on one batch that lies on the device: the ceiling.
``memory``   the training itself, rendered views kept in memory (``runtime.memory_gb``).
``photos``   the training itself, every view read, decoded and cut again in every epoch.

Rounds alternate, and the median of the ratios counts. On a CPU, decoding and the student share the
cores, so that ``photos`` cannot reach the student.

Usage: python benchmarks/training.py [--teacher NAME] [--student NAME] [--image-size 224]
       [--images 96] [--batch 32] [--precision float32] [--steps 6] [--rounds 3] [--out FILE]
On a GPU: --teacher vit_small_patch14_dinov2 --images 4096 --batch 256 --precision bfloat16
          --steps 60, and the same with --teacher vit_base_patch14_dinov2
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _photos import PHOTO, hardware, make_photos, write_dated
from _teachers import write_random_weights

from flows.config.load import parse_config
from flows.config.run import RunConfig
from flows.data.features import taught_latents
from flows.data.loader import PixelStore, StepDataset, Taught, batches_from
from flows.data.rendering import view_source
from flows.stages.models import start_student
from flows.stages.pipeline import Pipeline
from flows.stages.train import loader_workers
from tintem_core.losses.cosine import cosine_student_loss
from tintem_core.models.device import choose_device
from tintem_core.models.embedder import autocast, to_float
from tintem_core.training.loop import train
from tintem_core.training.state import TrainingState

WARM_UP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="vit_small_patch16_224")
    parser.add_argument("--student", default="vit_tiny_patch16_224")
    parser.add_argument("--image-size", type=int, default=224, help="of both")
    parser.add_argument("--images", type=int, default=96, help="a fifth of them is kept apart")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--steps", type=int, default=6, help="timed in a round, after two others")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    parser.add_argument("--workers", type=int, default=None, help="that prepare batches")
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/…")
    options = parser.parse_args()
    device = choose_device("auto")
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), device, options)
    result = {
        "hardware": hardware(device),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "photo": list(PHOTO),
        **{name: value for name, value in vars(options).items() if name != "out"},
        **measured,
    }
    print(f"{options.teacher} → {options.student} at {options.image_size} px, batch "
          f"{options.batch}, {options.precision}, on {result['hardware']}")  # fmt: skip
    for name, speed in result["images_per_second"].items():
        print(f"  {name:10} {speed['median']:10,.1f} images/s   {speed['ratio']:6.3f} × student")
    if device.startswith("cuda"):
        print(f"  GPU memory at the peak: {result['peak_gpu_gib']} GiB")
    write_dated(result, f"training-{options.teacher}", options.out)


def measure(folder: Path, device: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return median images per second, and ratios to the bare step of the same round."""
    pipeline = Pipeline(configured(folder, device, options))
    config = pipeline.config
    latents = taught_latents(pipeline.root, pipeline.extracted, pipeline.indexed.data, "train")
    source = view_source(config, pipeline.indexed.data, "train")

    def dataset(memory: int) -> StepDataset:
        pixels = PixelStore(source, options.image_size, config.views.count, memory)
        return StepDataset(Taught(pixels, latents), options.batch, seed=0)

    kept = dataset(2**40)
    for step in range(config.views.count * kept.steps_per_epoch):
        # Rendered before the clock starts.
        kept[step]
    ways: dict[str, Callable[[], float]] = {
        "student": partial(bare, pipeline, kept, options),
        "memory": partial(trained, pipeline, kept, options),
        "photos": partial(trained, pipeline, dataset(0), options),
    }
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            rounds[name].append(options.steps * options.batch / way())
    return {
        "images_per_second": {
            name: {
                "median": round(statistics.median(found), 2),
                "ratio": round(
                    statistics.median(
                        mine / ceiling
                        for mine, ceiling in zip(found, rounds["student"], strict=True)
                    ),
                    4,
                ),
            }
            for name, found in rounds.items()
        },
        "peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)
        if device.startswith("cuda")
        else None,
    }


class Clock:
    """Seconds from the end of the warm-up to the last step, whatever the device still computes."""

    def __init__(self, device: str, last: int) -> None:
        self._device, self._last = device, last
        self.seconds, self._started = 0.0, 0.0

    def __call__(self, step: int, _loss: object = None) -> None:
        if step not in (WARM_UP, self._last):
            return
        if self._device.startswith("cuda"):
            torch.cuda.synchronize()
        now = time.perf_counter()
        if step == WARM_UP:
            self._started = now
        else:
            self.seconds = now - self._started


def bare(pipeline: Pipeline, dataset: StepDataset, options: argparse.Namespace) -> float:
    """Return the seconds of the student's own steps."""
    run = new_run(pipeline, dataset)
    student, device = run.learner.student.train(), run.epoch_loss.device
    step_of = torch.compile(student) if pipeline.config.runtime.compile else student
    batch = dataset[0]
    pixels = batch.pixels.to(device)
    target = torch.randn(len(pixels), pipeline.mapped.record["spec"]["width"], device=device)
    clock = Clock(device.type, WARM_UP + options.steps)
    for step in range(1, WARM_UP + options.steps + 1):
        run.optimizer.zero_grad(set_to_none=True)
        with autocast(device, options.precision):
            embedding = step_of(to_float(pixels, device))
        cosine_student_loss(embedding.float(), target).backward()
        run.optimizer.step()
        clock(step)
    return clock.seconds


def trained(pipeline: Pipeline, dataset: StepDataset, options: argparse.Namespace) -> float:
    """Return the seconds of as many steps of the training, the wait for their batches included."""
    run = new_run(pipeline, dataset)
    config, steps = pipeline.config, WARM_UP + options.steps
    clock = Clock(run.epoch_loss.device.type, steps)
    train(
        run,
        batches_from(dataset, 0, steps, loader_workers(config, run.epoch_loss.device.type)),
        config.training,
        # One epoch, so that the schedule and the history cost what they cost anywhere.
        steps,
        save=lambda _step, _checkpoint: None,
        save_every_s=math.inf,
        on_step=clock,
        compiled=config.runtime.compile,
    )
    return clock.seconds


def new_run(pipeline: Pipeline, dataset: StepDataset) -> TrainingState:
    config = pipeline.config
    device = choose_device(config.runtime.device)
    return start_student(
        config, pipeline.root, pipeline.mapped, None, device, dataset.steps_per_epoch, 0
    )


def configured(folder: Path, device: str, options: argparse.Namespace) -> RunConfig:
    """Describe the run; the teacher has random weights, which say nothing about its speed."""
    weights = folder / "teacher.safetensors"
    write_random_weights(weights, options.teacher, options.image_size)
    settings = {
        "root": str(folder / "root"),
        "data": {
            "name": "photos",
            "uri": str(make_photos(folder / "photos", options.images)),
        },
        "teacher": {
            "model": options.teacher,
            "image_size": options.image_size,
            "weights": str(weights),
            "precision": options.precision,
        },
        "views": {"count": 2},
        "mapping": {"objective": "svd"},
        "student": {"model": options.student, "image_size": options.image_size},
        "training": {
            "epochs": 1,
            "batch_size": options.batch,
            "precision": options.precision,
            "support": 0,
        },
        "runtime": {
            "device": device,
            "loader_workers": options.workers,
            "compile": options.compile,
        },
    }
    return parse_config(settings, "benchmark")


if __name__ == "__main__":
    main()
