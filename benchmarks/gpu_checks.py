"""What must hold on a GPU, one check a call; what is fast there, other benchmarks measure.

``embeddings``  the teacher on the device against the CPU: smallest cosine, in float32 and in
                bfloat16; and of an int8 cache that the device filled against those embeddings.
``resume``      a student killed by SIGKILL while it trains, and finished by the same command: are
                the weights those of the training that nobody disturbed, bit for bit?
``torchrun``    a student trained under torchrun, NCCL on a GPU, batch norm synchronised: its loss
                beside that of one plain process.
``memory``      a batch that the memory does not hold: teacher and student halve it and go on, and
                say the same. On a CPU the memory is that of a pretended device.
``sne``         seconds and memory of the SNE loss against the loop over temperatures.

Usage: python benchmarks/gpu_checks.py CHECK --out FILE [--model NAME] [--student NAME]
       [--image-size 224] [--images 512] [--count 4096]
"""

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from _photos import hardware, make_photos
from _teachers import write_random_weights
from sne_loss import STUDENT_WIDTH, TEACHER_WIDTH, VARIANTS
from torch import nn

from flows.config.load import load_config
from flows.provenance import provenance
from flows.stages.pipeline import Pipeline
from storage.cache import FeatureCache
from tintem_core.models.backbone import build_backbone
from tintem_core.models.config import TeacherConfig
from tintem_core.models.device import choose_device
from tintem_core.models.teacher import Teacher

_TRAIN = """
import sys
from flows.config.load import load_config
from flows.stages.pipeline import Pipeline
Pipeline(load_config(sys.argv[1])).trained
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("check", choices=list(CHECKS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="vit_small_patch14_dinov2")
    parser.add_argument("--student", default="resnet18")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--count", type=int, default=4096, help="rows that `sne` compares")
    options = parser.parse_args()
    device = choose_device("auto")
    with tempfile.TemporaryDirectory() as folder:
        found = CHECKS[options.check](Path(folder), device, options)
    result = {"hardware": hardware(device), **found, "provenance": provenance()}
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def embeddings(folder: Path, device: str, options: argparse.Namespace) -> dict[str, Any]:
    images = np.random.default_rng(0).integers(
        0, 256, (32, options.image_size, options.image_size, 3), np.uint8
    )
    wanted = _teacher(options, "cpu").embed(images).embedding
    found = {
        precision: _smallest_cosine(
            wanted, _teacher(options, device, precision=precision).embed(images).embedding
        )
        for precision in ("float32", "bfloat16")
    }
    plain, small = (
        _latents(folder / dtype, device, options, dtype) for dtype in ("float32", "int8")
    )
    return {
        "smallest_cosine_to_cpu": found,
        "smallest_cosine_of_int8_cache": _smallest_cosine(plain, small),
    }


def resume(folder: Path, device: str, options: argparse.Namespace) -> dict[str, Any]:
    whole, killed = (_config(folder / name, device, options) for name in ("whole", "killed"))
    _train(whole)
    process = subprocess.Popen([sys.executable, "-c", _TRAIN, str(killed)])
    while process.poll() is None and _step(killed) < 3:
        time.sleep(0.002)
    at = _step(killed)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _train(killed)
    record = _only(killed, "record.json")
    return {
        "killed_at_step": at,
        "resumed_at_step": json.loads(record.read_text())["resumed_at_step"],
        "same_bytes": _only(whole, "student.safetensors").read_bytes()
        == _only(killed, "student.safetensors").read_bytes(),
    }


def torchrun(folder: Path, device: str, options: argparse.Namespace) -> dict[str, Any]:
    plain, joined = (_config(folder / name, device, options) for name in ("plain", "joined"))
    _train(plain)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    subprocess.run([*command, "1", "-m", "flows.torchrun", str(joined)], check=True)
    losses = {
        name: json.loads(_only(config, "record.json").read_text())["metrics"]["final_loss"]
        for name, config in (("plain", plain), ("torchrun", joined))
    }
    return {"final_loss": losses, "backend": "nccl" if device.startswith("cuda") else "gloo"}


def memory(folder: Path, device: str, options: argparse.Namespace) -> dict[str, Any]:
    size, most = options.image_size, 8
    images = np.random.default_rng(0).integers(0, 256, (64, size, size, 3), np.uint8)
    few = _teacher(options, device, batch_size=most)
    peak, wanted = _peak(device, lambda: few.embed(images).embedding)
    many = _teacher(options, device, batch_size=len(images))
    with _little_memory(device, most, peak):
        halved = many.embed(images).embedding
    small, large = (
        Pipeline(load_config(_config(folder / name, device, options, batch_size=batch)))
        for name, batch in (("small", most), ("large", 4 * most))
    )
    peak, _ = _peak(device, lambda: small.trained)
    assert large.mapped
    with _little_memory(device, most, peak):
        record = large.trained.record
    return {
        "teacher_smallest_cosine_to_small_batches": _smallest_cosine(wanted, halved),
        "student_pieces_per_batch": record["pieces_per_batch"],
        "student_final_loss": record["metrics"]["final_loss"],
    }


def sne(_folder: Path, device: str, options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    teacher = torch.randn(options.count, TEACHER_WIDTH, device=device)
    start = teacher @ (torch.randn(TEACHER_WIDTH, STUDENT_WIDTH, device=device) / 20)
    found = {}
    for name, loss_of in VARIANTS.items():

        def work(loss_of: Callable[..., Any] = loss_of) -> tuple[float, float]:
            mapped = start.clone().requires_grad_()
            loss = loss_of(mapped, teacher)
            (gradient,) = torch.autograd.grad(loss, mapped)
            return loss.item(), gradient.norm().item()

        peak, (loss, gradient) = _peak(device, work)
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - began)
        found[name] = {
            "seconds": statistics.median(seconds),
            "peak_gpu_mib": peak / 2**20,
            "loss": loss,
            "gradient_norm": gradient,
        }
    return {"count": options.count, **found}


CHECKS: dict[str, Callable[[Path, str, argparse.Namespace], dict[str, Any]]] = {
    "embeddings": embeddings,
    "resume": resume,
    "torchrun": torchrun,
    "memory": memory,
    "sne": sne,
}


def _teacher(options: argparse.Namespace, device: str, **changes: Any) -> Teacher:
    """The same random weights every time."""
    config = TeacherConfig(model=options.model, image_size=options.image_size, **changes)
    torch.manual_seed(0)
    return Teacher(config, build_backbone(config), device)


def _config(
    folder: Path, device: str, options: argparse.Namespace, dtype: str = "float16", **training: Any
) -> Path:
    """Write a run of some steps."""
    folder.mkdir(parents=True)
    weights = folder / "teacher.safetensors"
    write_random_weights(weights, options.model, options.image_size)
    settings = {
        "root": str(folder / "root"),
        "data": {"name": "photos", "uri": str(make_photos(folder / "photos", options.images))},
        "teacher": {
            "model": options.model,
            "image_size": options.image_size,
            "weights": str(weights),
        },
        "views": {"count": 2},
        "cache": {"dtype": dtype},
        "mapping": {"objective": "svd"},
        "student": {"model": options.student, "image_size": options.image_size},
        "training": {"epochs": 4, "batch_size": 32, "support": 0, **training},
        "runtime": {"device": device, "checkpoint_seconds": 0, "loader_workers": 0},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def _latents(folder: Path, device: str, options: argparse.Namespace, dtype: str) -> Any:
    run = Pipeline(load_config(_config(folder, device, options, dtype)))
    cache = FeatureCache.open(run.root, run.extracted.training_cache)
    return cache.reader(sorted(run.indexed.data.keys("train"))).all(view=0)


def _train(config: Path) -> None:
    subprocess.run([sys.executable, "-c", _TRAIN, str(config)], check=True)


def _only(config: Path, name: str) -> Path:
    (found,) = (config.parent / "root" / "students").glob(f"*/{name}")
    return found


def _step(config: Path) -> int:
    try:
        return int(json.loads(_only(config, "progress.json").read_text())["step"])
    except (ValueError, OSError):
        return 0


def _smallest_cosine(first: Any, second: Any) -> float:
    rows = [x.astype(np.float64) / np.linalg.norm(x, axis=1, keepdims=True).astype(np.float64)
            for x in (np.asarray(first, np.float64), np.asarray(second, np.float64))]  # fmt: skip
    return float((rows[0] * rows[1]).sum(1).min())


def _peak(device: str, work: Callable[[], Any]) -> tuple[int, Any]:
    """Return the device memory in bytes that some work takes at most, and what it gives."""
    if not device.startswith("cuda"):
        return 0, work()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    found = work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before, found


@contextlib.contextmanager
def _little_memory(device: str, most: int, peak: int) -> Iterator[None]:
    """Leave about as much memory as so many images took; on a CPU, pretend so."""
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        filler = torch.empty(free - int(1.5 * peak), dtype=torch.uint8, device=device)
        yield
        del filler
        return

    def refuse(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(inputs[0], torch.Tensor) and inputs[0].ndim == 4 and len(inputs[0]) > most:
            raise torch.OutOfMemoryError("the pretended device's memory is full")

    with nn.modules.module.register_module_forward_pre_hook(refuse):
        yield


if __name__ == "__main__":
    main()
