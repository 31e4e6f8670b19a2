"""An export in transformers.js, under node and in a page of a real browser."""

import json
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.config.load import parse_config
from flows.stages.pipeline import Pipeline
from tests.browser import chromium
from tests.photos import photo
from tests.runs import small_run
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.export.formats import export_format
from tintem_pixels import load_square

NODE = Path(__file__).parent.parent / "node"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program and the packages that it needs, installed by npm."""
    folder = tmp_path_factory.mktemp("node")
    for file in ("package.json", "embed.js", "page.html"):
        shutil.copy(NODE / file, folder)
    # Scripts of these packages fetch libraries of GPUs.
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=240)
    return folder


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's folder."""
    folder = tmp_path_factory.mktemp("run")
    photos = folder / "photos"
    photos.mkdir()
    for i in range(48):
        photo(i).save(photos / f"{i % 3}-{i}.png")
    settings = small_run(folder, photos)
    settings["export"] = {
        "formats": ["onnx", "uint8", "web", "fp16", "int8"],
        # What is tested is that the files are read, not how good so small a student is.
        "reduced_loss": 1,
        "reduced_cosine": 0.9,
    }
    return Path(Pipeline(parse_config(settings, "test")).exported.location)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One of the student's size, and some larger ones."""
    folder = tmp_path_factory.mktemp("photos")
    sizes = [(32, 32), (320, 240), (90, 70), (70, 300)]
    for i, size in enumerate(sizes):
        photo(i, size).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def check(found: Any, export: Path, photos: list[Path], dtype: str) -> None:
    form = export_format("uint8")
    embed = form.open({form.file: (export / form.file).read_bytes()})
    wanted = unit_rows(embed(np.stack([load_square(path, 32) for path in photos])))
    cosines = (unit_rows(np.array(found, np.float32)) * wanted).sum(axis=1)
    # The pixels of the first need no resampling, which others do in other ways.
    assert cosines[0] >= {"fp32": 0.999999, "fp16": 0.9999, "q8": 0.99}[dtype]
    assert cosines.min() > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "q8"])
def test_transformers_js_embeds_photos_as_the_student_does(
    node: Path, export: Path, photos: list[Path], dtype: str
) -> None:
    command = ["node", "embed.js", str(export), dtype, *map(str, photos)]
    done = subprocess.run(command, cwd=node, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout.splitlines()[-1]), export, photos, dtype)


@pytest.mark.slow
def test_a_page_in_a_browser_embeds_photos_as_the_student_does(
    node: Path, export: Path, photos: list[Path]
) -> None:
    (node / "models").mkdir()
    (node / "models" / "student").symlink_to(export)
    (node / "photos").symlink_to(photos[0].parent)
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=node)) as server,
        chromium() as browser,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tab, wrong = browser.new_page(), []
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        address = f"http://127.0.0.1:{server.server_port}"
        tab.on(
            "request",
            lambda r: r.url.startswith((address, "blob:", "data:")) or wrong.append(r.url),
        )
        tab.goto(f"{address}/page.html")
        tab.wait_for_function("window.embed !== undefined", timeout=60_000)
        for dtype in ("fp32", "fp16", "q8"):
            names = [f"/photos/{path.name}" for path in photos]
            found = tab.evaluate("([photos, dtype]) => embed(photos, dtype)", [names, dtype])
            check(found, export, photos, dtype)
        server.shutdown()
    assert wrong == []


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass
