"""How close `tintem serve` comes to the bare ONNX Runtime session with many clients, in one run.

``session``  images per second of the exported student in ONNX Runtime, one thread per core, on
             uint8 batches that lie in memory: the ceiling.
``work``     the same JPEG bytes decoded, cut and embedded by as many threads, without HTTP: what a
             service would reach that costs nothing itself.
``service``  the service in a process of its own, asked by clients in another, an image a request.

The clients share the cores with the service; ``client_share`` is what they take of them. Rounds
alternate, and the median of the ratios within a round counts.

Usage: python benchmarks/serve.py [--model NAME] [--image-size 224] [--clients 16] [--images 320]
       [--rounds 5] [--out FILE]
"""

import argparse
import base64
import http.client
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from _photos import conditions, make_photos, medians, write_dated
from embed import BATCH, FILE, write_export

from flows.inference.model import PhotoModel, open_export
from flows.serving.queue import EmbeddingQueue
from tintem_core.export.runtime import run_onnx, session

_PLENTY = 10**9
_MAIN = "from flows.cli import main; main()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mobilenetv3_large_100")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--images", type=int, default=320, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None, help="default: benchmarks/results/…")
    options = parser.parse_args()
    result = conditions(options)
    with tempfile.TemporaryDirectory() as folder:
        result |= measure(Path(folder), options)
    print(f"{options.model} at {options.image_size} px on {result['hardware']}")
    for name, speed in result["images_per_second"].items():
        print(f"  {name:8} {speed['median']:8,.1f} images/s   {speed['ratio']:6.3f} × session")
    print("  {clients} clients: p50 {p50_ms:.0f} ms, p95 {p95_ms:.0f} ms".format(**result))
    print(f"  the clients take {result['client_share']:.0%} of the cores meanwhile")
    write_dated(result, "serve", options.out)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Median images per second with ratios, and the latencies of all rounds."""
    export = write_export(folder, options)
    encoded = [path.read_bytes() for path in sorted(make_photos(folder / "photos", 64).iterdir())]
    images = [encoded[number % len(encoded)] for number in range(options.images)]
    bodies = [
        json.dumps({"input": f"data:image/jpeg;base64,{base64.b64encode(each).decode()}"}).encode()
        for each in encoded
    ]
    size = options.image_size
    ready = np.random.default_rng(1).integers(0, 256, (BATCH, size, size, 3), np.uint8)
    opened, model = session((export / FILE).read_bytes()), open_export(str(export))

    def bare() -> None:
        for start in range(0, options.images, BATCH):
            run_onnx(opened, ready[: min(BATCH, options.images - start)])

    told: list[float] = []
    busy: list[float] = []
    cores = os.cpu_count() or 1
    with service(export) as port, multiprocessing.get_context("spawn").Pool(1) as pool:

        def served() -> None:
            started = time.perf_counter()
            arguments = (port, bodies, options.clients, options.images)
            seconds, processor = pool.apply(ask, arguments)
            told.extend(seconds)
            busy.append(processor / (time.perf_counter() - started) / cores)

        ways: dict[str, Callable[[], None]] = {
            "session": bare,
            "work": lambda: work(model, images, cores),
            "service": served,
        }
        rounds: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()
        told.clear()
        busy.clear()
        for _ in range(options.rounds):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                rounds[name].append(options.images / (time.perf_counter() - started))
    p50, p95 = 1000 * np.percentile(told, (50, 95))
    return {
        "images_per_second": medians(rounds, "session"),
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "client_share": float(np.median(busy)),
    }


def work(model: PhotoModel, images: list[bytes], cores: int) -> None:
    """Decode and embed as the service does, and nothing else."""
    queue = EmbeddingQueue(cores, most_waiting=_PLENTY, most_pixels=_PLENTY)
    for found in queue.submit(model, images):
        found.result()
    queue.close()


@contextmanager
def service(export: Path) -> Iterator[int]:
    """Start the command that a user starts; gives its port."""
    command = [sys.executable, "-c", _MAIN, "serve", str(export), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r":(\d+)/docs", line):
                break
        else:
            raise SystemExit("the service did not start")
        try:
            yield int(found[1])
        finally:
            process.terminate()


def ask(port: int, bodies: list[bytes], clients: int, images: int) -> tuple[list[float], float]:
    """Ask from many clients, each as soon as it is answered; seconds of each, and of processor."""
    before = time.process_time()

    def client(first: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        seconds = []
        for number in range(first, images, clients):
            started = time.perf_counter()
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/v1/embeddings", bodies[number % len(bodies)], headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == http.client.OK, answer.status
            seconds.append(time.perf_counter() - started)
        return seconds

    with ThreadPoolExecutor(clients) as pool:
        found = [each for seconds in pool.map(client, range(clients)) for each in seconds]
    return found, time.process_time() - before


if __name__ == "__main__":
    main()
