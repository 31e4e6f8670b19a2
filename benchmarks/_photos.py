"""Photos made on the spot, and files of results that name the day and the hardware."""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

PHOTO = (500, 375)


def make_photos(folder: Path, count: int, size: tuple[int, int] = PHOTO) -> Path:
    """Write JPEG files with structure at every scale, as in photos; quality 90, chroma subsampled.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        layers = [
            Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).resize(size)
            for side in (4, 16, 64)
        ]
        mixed = np.mean([np.asarray(layer, np.float32) for layer in layers], axis=0)
        Image.fromarray(mixed.astype(np.uint8)).save(folder / f"{i:05d}.jpg", quality=90)
    return folder


def link_photos(folder: Path, uris: Sequence[str]) -> None:
    """Make a folder with nothing in it but some photos, for programs that take a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, uri in enumerate(uris):
        (folder / f"{number:05d}{Path(uri).suffix}").symlink_to(uri)


def hardware(device: str) -> str:
    """Return a name for file names: of the GPU, or of the processor and its cores."""
    is_gpu = device.startswith("cuda")
    name = torch.cuda.get_device_name() if is_gpu else f"{platform.machine()}-{os.cpu_count()}c"
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Say on what, and with which options, ONNX Runtime is measured."""
    return {
        "hardware": hardware("cpu"),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "onnxruntime": version("onnxruntime"),
        "photo": list(PHOTO),
        **{name: value for name, value in vars(options).items() if name != "out"},
    }


def write_dated(result: dict[str, Any], what: str, out: Path | None) -> None:
    """Write a result that names its ``hardware``.

    Args:
        out: the file; by default one in benchmarks/results/ that names the day and the hardware.
    """
    today = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    name = f"{what}-{today}-{result['hardware']}.json"
    out = out or Path(__file__).parent / "results" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\nwritten to {out}")


def medians(rounds: dict[str, list[float]], bare: str) -> dict[str, dict[str, Any]]:
    """Return the median rate of each way, and the median of its ratios to the bare one.

    Ratios are taken within a round: what else the machine does changes from one to the next.
    """
    ratios = {
        name: [rate / least for rate, least in zip(found, rounds[bare], strict=True)]
        for name, found in rounds.items()
    }
    return {
        name: {
            "median": round(statistics.median(found), 2),
            "ratio": round(statistics.median(ratios[name]), 4),
            "ratios": [round(ratio, 4) for ratio in ratios[name]],
        }
        for name, found in rounds.items()
    }
