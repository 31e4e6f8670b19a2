"""How close `tintem embed` comes to the bare ONNX Runtime session, as ratios, in one run.

``session``  photos per second of the exported student in ONNX Runtime, one call after the other,
             one thread per core, on uint8 batches that lie in memory: the ceiling.
``decode``   JPEG files read, decoded and cut on all cores, and nothing else.
``pixels``   `embed_photos` itself (threads, parts flushed to disk, the file at the end), but with
             the pixels ready in memory: what this project adds where decoding is not the limit.
``photos``   the whole of it.
``sum``      what ``photos`` would reach if nothing but decoding and the session took time: they
             share the cores, so that it, not the session, is the limit of ``photos``.

Rounds alternate, and the median of the ratios within a round counts; ``load_before`` says how many
processes wanted the cores already: above a few tenths per core the ratios are noisy.

Usage: python benchmarks/embed.py [--model NAME] [--image-size 128] [--images 256] [--rounds 5]
       [--out FILE]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from _photos import conditions, make_photos, medians, write_dated

from flows.inference import embed as embedding
from flows.inference.embed import embed_photos
from flows.inference.model import open_export
from storage.artifacts import write_artifact
from storage.images import SourceConfig
from storage.root import open_root
from tintem_core.export.onnx import to_onnx
from tintem_core.export.runtime import run_onnx, session
from tintem_core.models.config import StudentConfig
from tintem_core.models.student import build_student
from tintem_pixels import load_square

WIDTH, BATCH = 256, 32
FILE = "student_uint8.onnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobilenetv3_small_100")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/…")
    options = parser.parse_args()
    result = conditions(options)
    with tempfile.TemporaryDirectory() as folder:
        result["photos_per_second"] = measure(Path(folder), options)
    print(f"{options.model} at {options.image_size} px on {result['hardware']}")
    for name, speed in result["photos_per_second"].items():
        print(f"  {name:8} {speed['median']:8,.1f} photos/s   {speed['ratio']:6.3f} × session")
    write_dated(result, "embed", options.out)


def write_export(folder: Path, options: argparse.Namespace) -> Path:
    """Export a student of random weights: what it says does not matter here."""
    config = StudentConfig(model=options.model, image_size=options.image_size)
    student = build_student(config, WIDTH, seed=0).eval()
    record = {
        "image_size": options.image_size,
        "bits": None,
        "width": WIDTH,
        "normalisation": student.backbone.normalisation,
        "formats": {"uint8": {"file": FILE}},
    }
    model = to_onnx(student, options.image_size, {}, "image")
    write_artifact(open_root(folder), "exports", "bench", {FILE: model}, record)
    return folder / "exports" / "bench"


def measure(folder: Path, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Median photos per second, and ratios to the bare session in the same round."""
    export = write_export(folder, options)
    photos = make_photos(folder / "photos", options.images)
    paths = sorted(photos.iterdir())
    source = SourceConfig(name="bench", uri=str(photos), labels="none")
    size = options.image_size
    ready = np.random.default_rng(1).integers(0, 256, (BATCH, size, size, 3), np.uint8)
    opened, model = session((export / FILE).read_bytes()), open_export(str(export))

    def bare() -> None:
        for start in range(0, options.images, BATCH):
            run_onnx(opened, ready[: min(BATCH, options.images - start)])

    def decode() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda path: load_square(path, size), paths))

    def whole() -> None:
        out = folder / "x.parquet"
        embed_photos(model, source, out)
        out.unlink()

    def without_decoding() -> None:
        with patch.object(embedding, "_look", lambda *_: ("key", ready[0], None)):
            whole()

    ways: dict[str, Callable[[], None]] = {
        "session": bare,
        "decode": decode,
        "pixels": without_decoding,
        "photos": whole,
    }
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    bare()
    for _ in range(options.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            rounds[name].append(options.images / (time.perf_counter() - started))
    pairs = zip(rounds["session"], rounds["decode"], strict=True)
    rounds["sum"] = [1 / (1 / run + 1 / read) for run, read in pairs]
    return medians(rounds, "session")


if __name__ == "__main__":
    main()
