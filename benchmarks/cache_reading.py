"""How fast shuffled minibatches come out of a cache, as ratios to NumPy's memmap, in one run.

Every engine reads the same values: memmap a flat file of (V, N, ...), the others the Zarr files
that this project writes. ``minibatch`` draws random rows of a random view. ``epoch`` passes over
every row of a view once: memmap and TinTeM in a true global shuffle, the Zarr engines whole shards
in shuffled order (which is the best they can do, and a weaker shuffle). ``cold`` empties the
page cache of the files first, where the machine allows it; ``cold, views in turns`` takes each row
in the view that a training's first epoch does. The engines take turns after every
minibatch (or shard), so that whatever else the machine does slows all of them, and the median over
the turns counts.

Usage: python benchmarks/cache_reading.py [--megabytes 1024] [--seconds 20] [--out FILE]
"""

import argparse
import importlib.util
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from flows.provenance import provenance
from storage.cache import CacheSpec, FeatureCache, KindSpec
from storage.root import open_root
from tintem_core.training.state import Batch

VIEWS, COLD_ROUNDS = 2, 3
RESULTS = Path(__file__).parent / "results" / "cache_reading.json"
LAYOUTS = {"global": ((1280,), ("feature",), 1024), "tokens": ((49, 768), ("token", "feature"), 64)}
Take = Callable[[int, np.ndarray], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024, help="size of each array")
    parser.add_argument("--seconds", type=float, default=20, help="per task and array")
    parser.add_argument("--folder", type=Path, default=None, help="where the files are made")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON with the figures")
    options = parser.parse_args()
    results = {}
    for name, (shape, dims, batch) in LAYOUTS.items():
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            row = int(np.prod(shape)) * 2
            count = max(options.megabytes * 2**20 // (VIEWS * row), 4 * batch)
            results[name] = measure(Path(folder), shape, dims, batch, count, options.seconds)
            show(name, results[name])
    found = {"load_at_the_end": os.getloadavg()[0], "provenance": provenance()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**found, "results": results}, indent=2) + "\n")


def measure(
    folder: Path,
    shape: tuple[int, ...],
    dims: tuple[str, ...],
    batch: int,
    count: int,
    seconds: float,
) -> dict[str, Any]:
    """Rows per second per engine and task, and ratios to memmap."""
    caches = write_files(folder, shape, dims, count)
    flat_shape = (VIEWS, count, *shape)
    cold = {
        task: [
            {name: cold_epoch(folder, flat_shape, caches, name, batch, views)
             for name in ("memmap", "ours")}
            for _ in range(COLD_ROUNDS)
        ]
        for task, views in (("cold", 1), ("cold, views in turns", VIEWS))
    }  # fmt: skip
    flat = np.memmap(folder / "flat", np.float16, "r", shape=flat_shape)
    engines, absent = open_engines(flat, caches, count)
    rng = np.random.default_rng(0)
    for take, _ in engines.values():
        take(0, np.arange(count)), take(1, np.arange(count))
    batches = {name: minibatches(take, rng, batch, count) for name, (take, _) in engines.items()}
    epochs = {name: epoch(*engine, rng, batch, count) for name, engine in engines.items()}
    medians = {
        "minibatch": take_turns(batches, seconds),
        "epoch": take_turns(epochs, seconds),
    }
    for task, rounds in cold.items():
        medians[task] = {
            name: statistics.median(speeds)
            for name in ("memmap", "ours")
            if all(speeds := [found[name] or 0 for found in rounds])
        }
    return {
        "images": count,
        "batch": batch,
        "shape": shape,
        "absent": absent,
        "rows_per_second": medians,
        "ratio_to_memmap": {
            task: {name: speed / by["memmap"] for name, speed in by.items() if name != "memmap"}
            for task, by in medians.items()
            if "memmap" in by
        },
    }


def write_files(
    folder: Path, shape: tuple[int, ...], dims: tuple[str, ...], count: int
) -> dict[str, FeatureCache]:
    """The flat file, and the same values as float16 and int8 caches."""
    flat = np.memmap(folder / "flat", np.float16, "w+", shape=(VIEWS, count, *shape))
    keys = [f"{i:032x}" for i in range(count)]
    caches = {}
    for dtype in ("float16", "int8"):
        kinds = {"k": KindSpec(shape=shape, dims=dims, dtype=dtype)}
        spec = CacheSpec(slug=dtype, content={}, views=VIEWS, kinds=kinds)
        cache = FeatureCache.create_or_open(open_root(folder), spec)
        done = 0
        for task in cache.plan(keys):
            rng = np.random.default_rng(task.shard)
            size = (VIEWS, len(task.keys), *shape)
            values = rng.standard_normal(size, dtype=np.float32).astype(np.float16)
            cache.write_shard(task, {"k": values})
            flat[:, done : done + len(task.keys)] = values
            done += len(task.keys)
        caches[dtype] = cache
    flat.flush()
    return caches


def open_engines(
    flat: np.memmap, caches: dict[str, FeatureCache], count: int
) -> tuple[dict[str, tuple[Take, int]], list[str]]:
    """Per engine how to take rows of a view, and the block it should read in an epoch (1: rows)."""
    cache = caches["float16"]
    place = str(cache.root.path(f"{cache.base}/k"))
    shard = cache.layout.rows_per_shard
    engines: dict[str, tuple[Take, int]] = {"memmap": (lambda view, rows: flat[view, rows], 1)}
    engines["ours"] = (ours(cache, count), 1)
    engines["ours int8"] = (ours(caches["int8"], count), 1)
    engines["int8 stored"] = (ours(caches["int8"], count, stored=True), 1)
    # A student learns from float32 tensors: torch widens, on one core as the others read.
    torch.set_num_threads(1)
    engines["memmap, learnt from"] = (lambda v, rows: torch.from_numpy(flat[v, rows]).float(), 1)
    engines["ours, learnt from"] = (learnt_from(cache, count), 1)
    engines["int8, learnt from"] = (learnt_from(caches["int8"], count), 1)
    engines["zarr oindex"] = (zarr_take(place), shard)
    absent = []
    if importlib.util.find_spec("tensorstore"):
        engines["tensorstore"] = (tensorstore_take(place), shard)
    else:
        absent.append("tensorstore")
    if importlib.util.find_spec("zarrs"):
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            engines["zarrs"] = (zarr_take(place), shard)
    else:
        absent.append("zarrs")
    return engines, absent


def ours(cache: FeatureCache, count: int, *, stored: bool = False) -> Take:
    reader = cache.reader([f"{i:032x}" for i in range(count)], "k")
    take = reader.take_stored if stored else reader.take
    return lambda view, rows: take(np.full(len(rows), view), rows)


def learnt_from(cache: FeatureCache, count: int) -> Take:
    """The batch's latents as the training step has them on its device, here the CPU."""
    stored = ours(cache, count, stored=True)
    no_pixels = torch.empty(0)

    def take(view: int, rows: np.ndarray) -> torch.Tensor:
        values, scales = stored(view, rows)
        batch = Batch(
            no_pixels,
            torch.from_numpy(values),
            latent_scales=None if scales is None else torch.from_numpy(scales),
        )
        return batch.on_device(torch.device("cpu")).latents.float()

    return take


def zarr_take(place: str) -> Take:
    array = zarr.open_array(place, mode="r")

    def take(view: int, rows: np.ndarray) -> Any:
        if len(rows) > 1 and rows[-1] - rows[0] == len(rows) - 1:
            return array[view, int(rows[0]) : int(rows[-1]) + 1]
        return array.oindex[view, rows]

    return take


def tensorstore_take(place: str) -> Take:
    import tensorstore

    store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": place}}
    array = tensorstore.open(store, open=True, read=True).result()

    def take(view: int, rows: np.ndarray) -> Any:
        if len(rows) > 1 and rows[-1] - rows[0] == len(rows) - 1:
            return array[view, int(rows[0]) : int(rows[-1]) + 1].read().result()
        return array[view, rows].read().result()

    return take


def take_turns(steps: dict[str, Iterator[float]], seconds: float) -> dict[str, float]:
    """Median rows per second of each engine; one engine uses at most its share of the time."""
    speeds: dict[str, list[float]] = {name: [] for name in steps}
    spent = dict.fromkeys(steps, 0.0)
    while any(time_left := {name: spent[name] < seconds / len(steps) for name in steps}.values()):
        for name in [n for n, left in zip(steps, time_left, strict=True) if left]:
            start = time.perf_counter()
            speeds[name].append(next(steps[name]))
            spent[name] += time.perf_counter() - start
    return {name: statistics.median(found) for name, found in speeds.items()}


def minibatches(take: Take, rng: np.random.Generator, batch: int, count: int) -> Iterator[float]:
    """Rows per second of one random minibatch after another."""
    while True:
        view, rows = int(rng.integers(VIEWS)), rng.integers(0, count, batch)
        start = time.perf_counter()
        take(view, rows)
        yield batch / (time.perf_counter() - start)


def epoch(
    take: Take, block: int, rng: np.random.Generator, batch: int, count: int
) -> Iterator[float]:
    """Rows per second of each step of epoch after epoch."""
    while True:
        if block == 1:
            order = rng.permutation(count)
            pieces = [order[i : i + batch] for i in range(0, count, batch)]
        else:
            starts = rng.permutation(range(0, count, block))
            pieces = [np.arange(i, min(i + block, count)) for i in starts]
        for rows in pieces:
            places = rng.permutation(len(rows))
            start = time.perf_counter()
            values = take(0, rows)
            if block > 1:
                values[places]
            yield len(rows) / (time.perf_counter() - start)


def cold_epoch(
    folder: Path,
    shape: tuple[int, ...],
    caches: dict[str, FeatureCache],
    name: str,
    batch: int,
    views: int,
) -> float | None:
    """Rows per second of an epoch whose files are not in memory, checksums included for ours."""
    if not hasattr(os, "posix_fadvise"):
        return None
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    flat = np.memmap(folder / "flat", np.float16, "r", shape=shape)
    start = time.perf_counter()
    if name == "ours":
        reader = caches["float16"].reader([f"{i:032x}" for i in range(shape[1])], "k")
    for rows in np.array_split(np.random.default_rng(1).permutation(shape[1]), shape[1] // batch):
        taken = rows % views
        flat[taken, rows] if name == "memmap" else reader.take(taken, rows)
    return shape[1] / (time.perf_counter() - start)


def show(name: str, result: dict[str, Any]) -> None:
    """A table on the terminal."""
    print(f"\n{name}: {result['images']} images × {VIEWS} views × {result['shape']}, "
          f"batch {result['batch']}")  # fmt: skip
    for task, speeds in result["rows_per_second"].items():
        for engine, speed in speeds.items():
            ratio = speed / speeds["memmap"]
            print(f"  {task:10} {engine:24} {speed:12,.0f} rows/s  {ratio:6.3f} × memmap")
    for engine in result["absent"]:
        print(f"  {engine}: not installed")


if __name__ == "__main__":
    main()
