"""An export in transformers.js, under node."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.config.load import parse_config
from flows.stages.pipeline import Pipeline
from tests.photos import photo
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.export.formats import export_format
from tintem_pixels import load_square

NODE = Path(__file__).parent.parent / "node"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program and the packages that it needs, installed by npm."""
    folder = tmp_path_factory.mktemp("node")
    for file in ("package.json", "embed.js"):
        shutil.copy(NODE / file, folder)
    # Scripts of these packages fetch libraries of GPUs.
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=240)
    return folder


@pytest.mark.slow
def test_transformers_js_embeds_photos_as_the_student_does(
    settings: dict[str, Any], node: Path, tmp_path: Path
) -> None:
    settings["export"]["formats"] = ["onnx", "uint8", "web", "fp16", "int8"]
    # What is tested is that the files are read, not how good so small a student is.
    settings["export"] |= {"reduced_loss": 1, "reduced_cosine": 0.9}
    exported = Pipeline(parse_config(settings, "test")).exported
    folder = Path(exported.location)
    # Some larger than the student's input, one of its size.
    photos = [tmp_path / f"{i}.png" for i in range(4)]
    for i, (path, size) in enumerate(
        zip(photos, [(32, 32), (320, 240), (90, 70), (70, 300)], strict=True)
    ):
        photo(i, size).save(path)
    form = export_format("uint8")
    embed = form.open({form.file: (folder / form.file).read_bytes()})
    wanted = unit_rows(embed(np.stack([load_square(path, 32) for path in photos])))
    for dtype, least in (("fp32", 0.999999), ("fp16", 0.9999), ("q8", 0.99)):
        command = ["node", "embed.js", str(folder), dtype, *map(str, photos)]
        done = subprocess.run(command, cwd=node, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found = unit_rows(np.array(json.loads(done.stdout.splitlines()[-1]), np.float32))
        cosines = (found * wanted).sum(axis=1)
        # The pixels of the first need no resampling, which others do in other ways.
        assert cosines[0] >= least
        assert cosines.min() > 0.98
