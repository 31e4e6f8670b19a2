"""What this machine has for TinTeM, and what it lacks, each with what to do about it."""

import importlib
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil
from rich.filesize import decimal

from flows.planning.disk import measure_disk
from storage.errors import StorageError
from storage.root import Root

State = Literal["good", "poor", "bad"]
_MEMORY, _DISK, _SHARED = 4e9, 5e9, 1e9
_SLOW = 20e6
_PACKAGES = ("torch", "torchvision", "timm", "zarr", "polars", "onnxruntime", "prefect")
_SHM = Path("/dev/shm")
_CLOCK_SECONDS = 60


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    state: good; poor, which works but may disappoint; or bad, which will fail. cure: empty where
    there is nothing to do.
    """

    name: str
    state: State
    says: str
    cure: str = ""


def examine(root: Root) -> Iterator[Finding]:
    """Look at packages, processor, memory and the place where a run's results lie."""
    looks: tuple[Callable[[], Finding], ...] = (
        _packages, _torch, _gpu, _memory, _shared_memory, lambda: _place(root),
    )  # fmt: skip
    for look in looks:
        yield look()


def _packages() -> Finding:
    found, missing = [f"Python {platform.python_version()}"], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(
            "packages", "bad", f"{', '.join(missing)} missing", f"pip install {' '.join(missing)}"
        )
    return Finding("packages", "good", ", ".join(found))


def _torch() -> Finding:
    """Compute something whose result is known, through torch and through timm."""
    try:
        torch, timm = importlib.import_module("torch"), importlib.import_module("timm")
        with torch.inference_mode():
            answer = timm.create_model("test_resnet").eval()(torch.zeros(1, 3, 64, 64))
        is_right = bool(torch.isfinite(answer).all())
        ones = torch.ones(64, 64)
        is_right &= bool((ones @ ones == 64).all())
    except Exception as error:  # noqa: BLE001 - a broken installation raises anything
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        cure = "install torch and torchvision of the same release, from the same index"
        return Finding("torch", "bad", f"it cannot run a model: {why}", cure)
    if not is_right:
        return Finding("torch", "bad", "it computes wrong numbers", "install torch again")
    threads = torch.get_num_threads()
    return Finding("torch", "good", f"it runs a model, {threads} threads of {os.cpu_count()} cores")


def _gpu() -> Finding:
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        built = (
            ""
            if torch.version.cuda is None
            else f", though torch is built for CUDA {torch.version.cuda}"
        )
        return Finding(
            "GPU", "poor", f"none{built}: everything is computed on the processor",
            "for an NVIDIA GPU, look at `nvidia-smi`, and install torch for its CUDA",
        )  # fmt: skip
    free, total = torch.cuda.mem_get_info()
    name = torch.cuda.get_device_name()
    return Finding("GPU", "good", f"{name}, {decimal(free)} of {decimal(total)} free")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    says = f"{decimal(memory.available)} of {decimal(memory.total)} free"
    if memory.available < _MEMORY:
        return Finding("memory", "poor", says, "end other programs, or set runtime.memory_gb lower")
    return Finding("memory", "good", says)


def _shared_memory() -> Finding:
    if not _SHM.is_dir():
        return Finding("/dev/shm", "good", "this system has none, and needs none")
    free = shutil.disk_usage(_SHM).free
    says = f"{decimal(free)} free"
    if free < _SHARED:
        return Finding(
            "/dev/shm", "poor", f"{says}: processes that read ahead share batches through it",
            "start the container with --shm-size 2g, or set runtime.loader_workers to 0",
        )  # fmt: skip
    return Finding("/dev/shm", "good", says)


def _place(root: Root) -> Finding:
    try:
        speed = measure_disk(root)
    except (StorageError, OSError) as error:
        where = "credentials and address of the bucket" if "://" in root.url else "its owner"
        return Finding("root", "bad", f"{root.url}: {error}", f"check {where}, or set another root")
    says = f"{root.url}: writes {decimal(int(speed.write))}/s, reads {decimal(int(speed.read))}/s"
    folder = root.path()
    if folder is not None:
        there = next(place for place in (folder, *folder.parents) if place.exists())
        free = shutil.disk_usage(there).free
        says += f", {decimal(free)} free"
        if free < _DISK:
            cure = "free some, or set root to another disk; `tintem plan` says what a run needs"
            return Finding("root", "poor", says, cure)
    if min(speed.write, speed.read) < _SLOW:
        return Finding("root", "poor", says, "set root to a faster disk, or one that is nearer")
    return Finding("root", "good", says)


def clock(server: str, date: str, now: float) -> Finding:
    """Compare this machine's clock with that of a server.

    Args:
        server: whose.
        date: the header ``Date`` of its answer.
        now: seconds since 1970 here.
    """
    apart = now - parsedate_to_datetime(date).timestamp()
    if abs(apart) > _CLOCK_SECONDS:
        way = "ahead of" if apart > 0 else "behind"
        return Finding(
            "clock", "bad", f"{abs(apart):.0f} s {way} {server}",
            "set the clock (NTP): leases of other machines, and signatures of S3, depend on it",
        )  # fmt: skip
    return Finding("clock", "good", f"within {abs(apart):.0f} s of {server}")
