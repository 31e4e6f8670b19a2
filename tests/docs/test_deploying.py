"""What docs/deploying.md shows is run in the folder of an export, without torch."""

import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.config.load import load_config
from flows.data.features import evaluation_latents
from flows.stages.map import apply, load_mapping
from flows.stages.pipeline import Pipeline
from tests.docs.ledger import DEPLOYING, run_by
from tests.docs.pages import ROOT, read
from tests.runs import write_config

_BLOCKED = "import sys; sys.modules['torch'] = sys.modules['flows'] = None\n"


@pytest.mark.slow
def test_the_examples_run_in_the_folder_of_an_export(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["export"] |= {"formats": ["onnx", "uint8", "ood"]}
    run = Pipeline(load_config(write_config(tmp_path, settings)))
    folder, data = Path(run.exported.location), run.indexed.data
    latents = evaluation_latents(run.root, run.extracted, data, "test")
    np.save(folder / "teacher.npy", latents)
    photos = sorted(Path(settings["data"]["uri"]).rglob("*.png"))
    for name, photo in zip(("a.jpg", "b.jpg", "photo.jpg"), photos, strict=False):
        shutil.copy(photo, folder / name)

    def told(code: str, *names: str) -> dict[str, np.ndarray[Any, Any]]:
        code = code.replace('"photo.jpg", 64', f'"photo.jpg", {run.config.student.image_size}')
        keep = f"import numpy; numpy.savez('kept.npz', {', '.join(f'{n}={n}' for n in names)})\n"
        done = subprocess.run(
            [sys.executable, "-c", _BLOCKED + code + keep], cwd=folder, timeout=120,
            capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return dict(np.load(io.BytesIO((folder / "kept.npz").read_bytes())))

    by_runtime, by_score, by_mapping = (block.text for block in run_by(DEPLOYING))
    embeddings = told(by_runtime, "embeddings")["embeddings"]
    assert embeddings.shape == (2, 32)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
    (score,) = told(by_score + "score = found['ood_score']\n", "score")["score"]
    assert -1 <= score <= 1
    index = told(by_mapping, "index")["index"]
    wanted = apply(load_mapping(run.config, run.root, run.mapped), latents)
    np.testing.assert_allclose(index, wanted, rtol=1e-3, atol=1e-4)


def test_the_page_names_the_files_of_every_format() -> None:
    from tintem_core.export.formats import FORMATS, export_format

    page = read("docs/deploying.md")
    for name in FORMATS:
        file = export_format(name).file
        assert file.split("/")[0] in page, name
        assert f"`{name}`" in page or name in ("onnx", "uint8", "web", "timm"), name
