"""What the forms of a cache take, keep and cost, on embeddings of real photos, in one run.

``types``     float16 and int8: the cosine of every stored embedding to the teacher's float32, and
              its bytes.
``codecs``    what codecs of Blosc and zstd make of chunks of embeddings, as they come from a CNN
              (behind a ReLU) and from a ViT (dense; random weights, whose numbers are as hard to
              pack): ratio, and megabytes packed and unpacked per second on one core.
``archives``  the same caches with every other ``cache.codec``: bytes, seconds to unpack them into
              an empty folder of copies (beside Zarr reading them, and Zarr writing them unpacked),
              and rows per second read at random once they are there, as a ratio to the plain cache.
``appends``   10,000 images added in 100 appends, as a run adds them, against one write: shards,
              seconds to open a reader, rows per second read at random; before and after the
              compaction that `tintem status` then asks for.

The photos are the quickstart's solar cells, through its teacher. For the reading speeds their
embeddings are repeated: what is in a row does not matter to them. The caches that are compared take
turns, and the median counts.

Usage: python benchmarks/cache_forms.py [--out FILE]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import yaml
import zarr
from _teachers import write_random_weights
from numcodecs import Blosc, Zstd

from flows.config.demo import prepare
from flows.config.load import load_config
from flows.provenance import provenance
from flows.stages.pipeline import Pipeline
from storage.cache import CacheSpec, FeatureCache, KindSpec
from storage.cache.footprint import rows_per_shard
from storage.cache.quantise import stored_values
from storage.copies import CopyFolder
from storage.root import open_root
from tintem_core.evaluation.cosine import row_cosines

RESULTS = Path(__file__).parent / "results" / "cache_forms.json"
VIT, CHUNK_BYTES = "vit_small_patch16_224", 2**18
CODECS = {
    "zstd 1": Zstd(1),
    "zstd 3": Zstd(3),
    "Blosc lz4, bytes shuffled": Blosc("lz4", 5, Blosc.SHUFFLE),
    "Blosc lz4, bits shuffled": Blosc("lz4", 5, Blosc.BITSHUFFLE),
    "Blosc zstd 1, bytes shuffled": Blosc("zstd", 1, Blosc.SHUFFLE),
    "Blosc zstd 1, bits shuffled": Blosc("zstd", 1, Blosc.BITSHUFFLE),
    "Blosc zstd 5, bytes shuffled": Blosc("zstd", 5, Blosc.SHUFFLE),
}
DTYPES = ("float16", "int8")
REPEATED, BATCH, TURNS = 48, 1024, 150
IMAGES, APPENDS, OPENED = 10_000, 100, 7
Array = np.ndarray[Any, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON with the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        embeddings = embedded(Path(folder))
        found = {
            "types": types(Path(folder) / "types", embeddings),
            "codecs": {
                "CNN": codecs(embeddings[0]),
                "ViT": codecs(embedded_by_vit(Path(folder) / "vit")),
            },
            "archives": archives(embeddings),
            "appends": appends(Path(folder) / "appends", embeddings),
        }
    about = {"load_at_the_end": os.getloadavg()[0], "provenance": provenance()}
    print(json.dumps(found, indent=2))
    options.out.write_text(json.dumps({**about, **found}, indent=2) + "\n")


def embedded(folder: Path) -> Array:
    """The teacher's float32 embeddings of the quickstart's training views: (V, N, D)."""
    content = yaml.safe_load(prepare(folder).read_text())
    content["cache"] = {"dtype": "float32"}
    content["evaluation"] = {}
    (folder / "float32.yaml").write_text(yaml.safe_dump(content))
    pipeline = Pipeline(load_config(folder / "float32.yaml"))
    cache = FeatureCache.open(pipeline.root, pipeline.extracted.training_cache)
    reader = cache.reader(pipeline.indexed.data.keys("train"))
    return np.stack([reader.all(view) for view in range(reader.views)])


def types(folder: Path, embeddings: Array) -> dict[str, Any]:
    """Cosines to float32, and bytes."""
    caches = {dtype: made(folder, embeddings, dtype) for dtype in DTYPES}
    found = {}
    for dtype in DTYPES:
        reader = caches[dtype].reader(keys(embeddings.shape[1]))
        cosines = np.concatenate(
            [row_cosines(rows, reader.all(view)) for view, rows in enumerate(embeddings)]
        )
        found[dtype] = {
            "embeddings": len(cosines),
            "smallest_cosine": float(cosines.min()),
            "mean_cosine": float(cosines.mean()),
            "bytes_per_embedding": caches[dtype].spec.kinds["global"].row_bytes
            + 4 * (dtype == "int8"),
        }
    return found


def embedded_by_vit(folder: Path) -> Array:
    """Float32 embeddings of the quickstart's photos by a ViT with random weights: (N, D)."""
    folder.mkdir()
    content = yaml.safe_load(prepare(folder).read_text())
    write_random_weights(folder / "vit.safetensors", VIT, 64)
    content["teacher"] = {"model": VIT, "image_size": 64, "weights": "vit.safetensors"}
    content["student"] = {"model": "test_resnet", "image_size": 64}
    content["cache"], content["evaluation"] = {"dtype": "float32"}, {}
    (folder / "vit.yaml").write_text(yaml.safe_dump(content))
    pipeline = Pipeline(load_config(folder / "vit.yaml"))
    cache = FeatureCache.open(pipeline.root, pipeline.extracted.training_cache)
    return cache.reader(pipeline.indexed.data.keys("train")).all(0)


def codecs(embeddings: Array) -> dict[str, Any]:
    """Ratio and speed of codecs on chunks as a cache has them; the codecs take turns."""
    numcodecs.blosc.set_nthreads(1)
    found: dict[str, Any] = {}
    for dtype in DTYPES:
        kind = spec_of(embeddings[None], dtype).kinds["global"]
        rows = stored_values("global", kind, embeddings[None], "a benchmark")["global"][0]
        step = max(1, CHUNK_BYTES // rows[0].nbytes)
        chunks = [rows[i : i + step] for i in range(0, len(rows), step)]
        plain = sum(chunk.nbytes for chunk in chunks) / 1e6
        packing: dict[str, list[float]] = {name: [] for name in CODECS}
        unpacking: dict[str, list[float]] = {name: [] for name in CODECS}
        sizes = {}
        for _ in range(OPENED):
            for name, codec in CODECS.items():
                started = time.perf_counter()
                packed = [codec.encode(np.ascontiguousarray(chunk)) for chunk in chunks]
                packing[name].append(time.perf_counter() - started)
                unpacking[name].append(seconds(lambda c=codec, p=packed: [*map(c.decode, p)]))
                sizes[name] = sum(map(len, packed)) / 1e6
        found[dtype] = {
            name: {
                "ratio": plain / sizes[name],
                "packs": plain / statistics.median(packing[name]),
                "unpacks": plain / statistics.median(unpacking[name]),
            }
            for name in CODECS
        }
    return found


def archives(embeddings: Array) -> dict[str, Any]:
    """Bytes, unpacking and reading of packed caches, as ratios to plain ones."""
    many = np.tile(embeddings, (1, REPEATED, 1))
    found: dict[str, Any] = {}
    for codec in ("zstd", "blosc-shuffle", "blosc-bitshuffle"):
        found[codec] = {}
        for dtype in DTYPES:
            with tempfile.TemporaryDirectory() as folder:
                found[codec][dtype] = archive(Path(folder), many, dtype, codec)
    return found


def archive(folder: Path, many: Array, dtype: str, codec: str) -> dict[str, float]:
    """What :func:`archives` says of one type and codec."""
    count = many.shape[1]
    plain = made(folder / "plain", many, dtype)
    packed = made(folder / "packed", many, dtype, codec=codec)
    touching: dict[str, list[float]] = {
        "plain": [], "packed": [], "again": [], "zarr": [], "rewritten": [],
    }  # fmt: skip
    for turn in range(OPENED):
        copies = CopyFolder(folder / f"copies-{dtype}-{turn}")
        plain_reader = plain.reader(keys(count))
        reader = packed.reader(keys(count), copies=copies)
        again = packed.reader(keys(count), copies=copies)
        for name, each in (("plain", plain_reader), ("packed", reader), ("again", again)):
            touching[name].append(seconds(each.load_all))
        stored = zarr.open_group(folder / "packed" / packed.base, mode="r")["global"]
        touching["zarr"].append(seconds(lambda array=stored: array[:]))
        target = zarr.create_array(
            folder / f"by-zarr-{dtype}-{turn}", shape=stored.shape, dtype=stored.dtype,
            chunks=stored.chunks, shards=stored.shards, compressors=None,
        )  # fmt: skip
        rewritten = seconds(lambda array=stored, to=target: to.__setitem__(..., array[:]))
        touching["rewritten"].append(rewritten)
    medians = map(statistics.median, touching.values())
    touched, unpacked, reopened, by_zarr, rewritten = medians
    speeds = taking_turns([plain_reader, reader], many.shape[0], count)
    return {
        "plain_bytes": stored_bytes(plain),
        "bytes": stored_bytes(packed) / stored_bytes(plain),
        "unpacked_megabytes_per_second": stored_bytes(plain) / unpacked / 1e6,
        "rewritten_by_zarr_megabytes_per_second": stored_bytes(plain) / rewritten / 1e6,
        "read_by_zarr_megabytes_per_second": stored_bytes(plain) / by_zarr / 1e6,
        "first_touch_slower": unpacked / touched,
        "later_first_touch_slower": reopened / touched,
        "reading": speeds[1] / speeds[0],
    }


def appends(folder: Path, embeddings: Array) -> dict[str, Any]:
    """Ratios of a cache that grew to one that was written at once."""
    views, photos, _ = embeddings.shape
    many = embeddings[:, np.arange(IMAGES) % photos]
    step = IMAGES // APPENDS
    spec = spec_of(embeddings, "float16")
    first = rows_per_shard(spec, step)
    at_once = made(folder / "at-once", many, "float16", rows_per_shard(spec, IMAGES))
    grown = FeatureCache.create_or_open(open_root(folder / "grown"), spec, first)
    for start in range(0, IMAGES, step):
        fill(grown, many, start + step)
    named = {"at_once": at_once, "grown": grown}

    def measured() -> dict[str, Any]:
        readers = [cache.reader(keys(IMAGES)) for cache in named.values()]
        opening = [
            statistics.median(
                seconds(lambda c=cache: c.reader(keys(IMAGES))) for _ in range(OPENED)
            )
            for cache in named.values()
        ]
        speeds = taking_turns(readers, views, IMAGES)
        return {
            name: {
                "shards": cache.stats()["shards"],
                "megabytes": round(cache.root.size(cache.base) / 1e6, 1),
                "seconds_to_open": opening[i],
                "reading": speeds[i] / speeds[0],
            }
            for i, (name, cache) in enumerate(named.items())
        }

    before = measured()
    assert grown.fragmentation().is_high
    grown.compact()
    return {"images": IMAGES, "appends": APPENDS, "before": before, "compacted": measured()}


def spec_of(embeddings: Array, dtype: str) -> CacheSpec:
    kind = KindSpec.model_validate(
        {"shape": embeddings.shape[2:], "dims": ("feature",), "dtype": dtype}
    )
    return CacheSpec(slug=dtype, content={}, views=len(embeddings), kinds={"global": kind})


def keys(count: int) -> list[str]:
    return [f"{i:032x}" for i in range(count)]


def made(
    folder: Path, embeddings: Array, dtype: str, rows: int | None = None, codec: str = "none"
) -> FeatureCache:
    """A cache of some embeddings (V, N, D), written at once."""
    spec = spec_of(embeddings, dtype)
    cache = FeatureCache.create_or_open(open_root(folder), spec, rows, codec=codec)
    fill(cache, embeddings, embeddings.shape[1])
    return cache


def fill(cache: FeatureCache, embeddings: Array, count: int) -> None:
    for task in cache.plan(keys(count)):
        rows = [int(key, 16) for key in task.keys]
        cache.write_shard(task, {"global": embeddings[:, rows]})


def stored_bytes(cache: FeatureCache) -> int:
    return sum(cache.stats()["bytes"].values())


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def taking_turns(readers: Sequence[Any], views: int, count: int) -> list[float]:
    """Median rows per second of random minibatches, the page cache warm."""
    rng = np.random.default_rng(0)
    speeds: list[list[float]] = [[] for _ in readers]
    for reader in readers:
        for view in range(views):
            reader.all(view)
    for _ in range(TURNS):
        for reader, found in zip(readers, speeds, strict=True):
            chosen = rng.integers(0, views, BATCH), rng.integers(0, count, BATCH)
            found.append(BATCH / seconds(lambda r=reader, c=chosen: r.take(*c)))
    return [statistics.median(found) for found in speeds]


if __name__ == "__main__":
    main()
