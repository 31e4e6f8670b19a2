"""How close the whole extraction comes to the bare teacher, as ratios, in one run.

``teacher``     views per second of `Teacher.embed` on batches that lie in memory: the ceiling.
``pixels``      the extraction itself (copies, forward, shards written and flushed), but with the
                views ready in memory: what this project adds where decoding is not the limit.
``photos``      the whole of it: JPEG files read, decoded, cut, embedded, written.
``large``       photos of 4000 x 3000 to views, decoded at the scale that is needed, against decoded
                whole and cut by Pillow, as ratios to the latter.
``decoders``    JPEG to RGB pixels alone, images per second on one thread, as ratios to Pillow.
                "scaled" decodes at the smallest eighth that is not smaller than the teacher's
                input: fewer pixels, and slightly others. "and views" cuts the views too, as the
                extraction does: what another decoder would change in the end.

Rounds alternate, and the median counts. On a CPU, decoding and the teacher share the cores, so that
``photos`` cannot reach the teacher; ``cores`` says how many there were, ``load_before`` how many
processes wanted them already: above a few tenths per core the ratios are noisy.

With ``--recipe eval --views 1`` and a student as the model, it is what an evaluation embeds.

Usage: python benchmarks/extraction.py [--model NAME] [--image-size 128] [--views 2] [--tokens]
       [--images 96] [--batch 64] [--precision float32] [--rounds 5] [--out FILE]
On a GPU: --model vit_small_patch14_dinov2 --image-size 224 --tokens --images 20000 --batch 256
          --precision bfloat16
"""

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from _photos import PHOTO, hardware, make_photos, medians, write_dated
from PIL import Image

from flows.data.embedding import embed_shards
from flows.data.rendering import ViewSource
from storage.cache import CacheSpec, FeatureCache, KindSpec
from storage.images import SourceConfig, build_manifest, open_reader
from storage.root import open_root
from tintem_core.models.backbone import build_backbone
from tintem_core.models.config import TeacherConfig
from tintem_core.models.teacher import Teacher
from tintem_core.views import (
    EVAL,
    Pixels,
    ViewRecipe,
    crop_box,
    decode_image,
    generator,
    render_views,
)
from tintem_pixels import decoded_pixels

LARGE = (4000, 3000)
RECIPES = {"light": ViewRecipe(), "eval": EVAL}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="light", help="of the views")
    parser.add_argument("--tokens", action="store_true")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None, help="that decode; one per core")
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/…")
    options = parser.parse_args()
    teacher = make_teacher(options)
    with tempfile.TemporaryDirectory() as folder:
        source = view_source(Path(folder), options)
        result = {
            **describe(teacher, options),
            "views_per_second": measure(Path(folder), teacher, source, options),
            "decoded_images_per_second": decoders(
                source, options.image_size, options.views, options.rounds
            ),
            "large_images_per_second": large_photos(
                Path(folder) / "large", options.image_size, options.views, options.rounds
            ),
        }
    show(result)
    write_dated(result, "extraction", options.out)


def make_teacher(options: argparse.Namespace) -> Teacher:
    """Random weights: what they say does not matter here."""
    config = TeacherConfig(
        model=options.model,
        image_size=options.image_size,
        precision=options.precision,
        batch_size=options.batch,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Teacher(config, build_backbone(config), device)


def view_source(folder: Path, options: argparse.Namespace) -> ViewSource:
    """Cut the views of some photos."""
    place = make_photos(folder / "photos", options.images)
    manifest = build_manifest(SourceConfig(name="bench", uri=str(place), test_share=0))
    uris = tuple(manifest.table["uri"].to_list())
    keys, recipe = tuple(manifest.keys()), RECIPES[options.recipe]
    return ViewSource(open_reader(manifest), uris, keys, recipe, options.image_size)


class Ready(ViewSource):
    """Views that need no work."""

    def views(self, row: int, views: range, size: int) -> Pixels:
        return READY[row % len(READY), : len(views), :size, :size]


def measure(
    folder: Path, teacher: Teacher, source: ViewSource, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Median views per second, and ratios to the teacher in the same round."""
    global READY
    size, views = options.image_size, options.views
    READY = np.random.default_rng(1).integers(0, 256, (64, views, size, size, 3), np.uint8)
    ready = Ready(source.images, source.uris, source.keys, source.recipe, size)
    shapes = teacher.describe()

    def extract(images: ViewSource) -> None:
        kinds = {"global": KindSpec(shape=shapes["global"], dims=("feature",))}
        if options.tokens:
            kinds["tokens"] = KindSpec(shape=shapes["tokens"], dims=("token", "feature"))
        spec = CacheSpec(slug="bench", content={"at": time.time_ns()}, views=views, kinds=kinds)
        cache = FeatureCache.create_or_open(open_root(folder), spec)
        tasks = cache.plan(images.keys)
        embed_shards(cache, tasks, teacher, images, options.threads, lambda _: None)

    def bare() -> None:
        batch = np.resize(READY.reshape(-1, size, size, 3), (options.batch, size, size, 3))
        for start in range(0, options.images * views, options.batch):
            pixels = batch[: min(options.batch, options.images * views - start)]
            # In a thread of its own, as in the extraction: where others use the cores too, OpenMP
            # waits for them differently in the first thread of a process.
            alone.submit(teacher.embed, pixels, tokens=options.tokens).result()

    ways: dict[str, Callable[[], None]] = {
        "teacher": bare,
        "pixels": lambda: extract(ready),
        "photos": lambda: extract(source),
    }
    rounds: dict[str, list[float]] = {name: [] for name in ways}
    with ThreadPoolExecutor(1) as alone:
        bare()
        for _ in range(options.rounds):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                rounds[name].append(options.images * views / (time.perf_counter() - started))
    return medians(rounds, "teacher")


def decoders(
    source: ViewSource, size: int, views: int, rounds: int
) -> dict[str, dict[str, float] | str]:
    """Images per second of each JPEG decoder there is, one thread, and ratios to Pillow."""
    data = [source.images.read(uri) for uri in source.uris[:64]]
    ways: dict[str, Callable[[bytes], Any]] = {
        "Pillow": lambda d: np.array(Image.open(io.BytesIO(d)).convert("RGB")),
        "Pillow, scaled": lambda d: np.asarray(drafted(d, size).convert("RGB")),
        "simplejpeg": simplejpeg.decode_jpeg,
        "simplejpeg, scaled": partial(simplejpeg.decode_jpeg, min_height=size, min_width=size),
    }
    found: dict[str, dict[str, float] | str] = {}
    try:
        from torchvision.io import decode_jpeg

        decode_jpeg(torch.frombuffer(bytearray(data[0]), dtype=torch.uint8))
        ways["torchvision"] = lambda d: decode_jpeg(
            torch.frombuffer(bytearray(d), dtype=torch.uint8)
        )
    except (ImportError, RuntimeError, AttributeError) as error:
        found["torchvision"] = f"not usable: {str(error).split('. ')[0]}"
    for name in ("Pillow", "simplejpeg"):
        ways[f"{name} and views"] = partial(cut, ways[name], size, views)
    ways["Pillow and views by Pillow"] = partial(cut_by_pillow, ways["Pillow"], size, views)
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(max(3, rounds)):
        for name, decode in ways.items():
            started = time.perf_counter()
            for item in data:
                decode(item)
            speeds[name].append(len(data) / (time.perf_counter() - started))
    pillow = statistics.median(speeds["Pillow"])
    for name, speed in speeds.items():
        median = statistics.median(speed)
        found[name] = {"median": round(median, 1), "ratio": round(median / pillow, 3)}
    return found


def large_photos(folder: Path, size: int, views: int, rounds: int) -> dict[str, dict[str, float]]:
    """Photos of a camera (4000 x 3000) to views, one thread: decoded as needed, and whole."""
    files = sorted(make_photos(folder, 3, LARGE).iterdir())
    recipe = ViewRecipe()

    def as_the_extraction(data: bytes) -> None:
        with decoded_pixels(data, shorter_side=recipe.decoded_side(size)) as pixels:
            render_views(pixels, "key", range(views), recipe, size, size)

    ways = {
        "whole, views by Pillow": partial(
            cut_by_pillow, lambda data: np.asarray(decode_image(data)), size, views
        ),
        "as the extraction": as_the_extraction,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            for path in files:
                way(path.read_bytes())
            seconds[name].append((time.perf_counter() - started) / len(files))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    slowest = medians["whole, views by Pillow"]
    return {
        name: {"median": round(1 / taken, 2), "ratio": round(slowest / taken, 2)}
        for name, taken in medians.items()
    }


def cut(decode: Callable[[bytes], Any], size: int, views: int, data: bytes) -> None:
    """Decode one photo and cut its views, as the extraction does."""
    render_views(decode(data), "key", range(views), ViewRecipe(), size, size)


def cut_by_pillow(decode: Callable[[bytes], Any], size: int, views: int, data: bytes) -> None:
    """Cut views of the same places as :func:`cut`, resampled by Pillow."""
    image = Image.fromarray(decode(data))
    for view in range(views):
        recipe = ViewRecipe()
        box = crop_box(generator("key", view, recipe), image.width, image.height, recipe)
        np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def drafted(data: bytes, size: int) -> Image.Image:
    """An opened JPEG that will be decoded at the smallest scale of at least ``size``."""
    image = Image.open(io.BytesIO(data))
    image.draft("RGB", (size, size))
    return image


def describe(teacher: Teacher, options: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "hardware": hardware(teacher.device.type),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "photo": list(PHOTO),
        **{name: value for name, value in vars(options).items() if name != "out"},
    }


def show(result: dict[str, Any]) -> None:
    """A table on the terminal."""
    print(f"{result['model']} at {result['image_size']} px on {result['hardware']}, "
          f"{result['views']} views, tokens: {result['tokens']}")  # fmt: skip
    for name, speed in result["views_per_second"].items():
        print(f"  {name:20} {speed['median']:10,.1f} views/s   {speed['ratio']:6.3f} × teacher")
    print("decoding, one thread")
    for name, speed in result["decoded_images_per_second"].items():
        if isinstance(speed, str):
            print(f"  {name:20} {speed}")
        else:
            print(f"  {name:20} {speed['median']:10,.1f} images/s  {speed['ratio']:6.3f} × Pillow")
    print(f"photos of {LARGE[0]} x {LARGE[1]} to views, one thread")
    for name, speed in result["large_images_per_second"].items():
        print(f"  {name:20} {speed['median']:10,.1f} images/s  {speed['ratio']:6.2f} × whole")


READY: Pixels = np.empty(0, np.uint8)


if __name__ == "__main__":
    main()
