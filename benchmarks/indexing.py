"""What finding out that photos are readable costs, as ratios to Pillow alone, in one run.

``pillow``   JPEG to RGB pixels by Pillow on one thread per core: the floor of decoding everything.
``decode``   an index with ``data.check: decode``, the default: every photo is decoded once, its
             pixels are compared with those of the others.
``header``   an index with ``data.check: header``: only the beginnings are looked at.
``again``    an index of photos that are known already, with one in a hundred new.

Rounds alternate, and the median counts.

Usage: python benchmarks/indexing.py [--images 2000] [--rounds 3] [--out FILE]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import polars as pl
from _photos import hardware, make_photos, write_dated
from PIL import Image

from flows.provenance import provenance
from storage.images import SourceConfig, build_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/…")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(make_photos(Path(folder), options.images), options.rounds)
    pillow = rates["pillow"]
    result = {
        "images": options.images,
        "cores": os.cpu_count(),
        "photos_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio_to_pillow": {name: round(rate / pillow, 3) for name, rate in rates.items()},
        "hardware": hardware("cpu"),
        "provenance": provenance(),
    }
    for name, rate in rates.items():
        print(f"{name:8} {rate:10,.0f} photos/s  {rate / pillow:6.2f} of Pillow alone")
    write_dated(result, "indexing", options.out)


def measure(folder: Path, rounds: int) -> dict[str, float]:
    """Return photos per second by way of indexing, the median of the rounds."""
    photos = sorted(folder.iterdir())
    decoded, header = (
        SourceConfig(name="photos", uri=str(folder), check=check) for check in ("decode", "header")
    )
    known = build_manifest(decoded)
    known = replace(known, table=known.table.filter(pl.col("row") % 100 > 0))
    ways: dict[str, Callable[[], object]] = {
        "pillow": lambda: _decoded(photos),
        "decode": lambda: build_manifest(decoded),
        "header": lambda: build_manifest(header),
        "again": lambda: build_manifest(decoded, previous=known),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begun)
    return {name: len(photos) / statistics.median(taken) for name, taken in seconds.items()}


def _decoded(photos: list[Path]) -> list[tuple[int, int]]:
    def size(path: Path) -> tuple[int, int]:
        with Image.open(path) as image:
            return image.convert("RGB").size

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(size, photos))


if __name__ == "__main__":
    main()
