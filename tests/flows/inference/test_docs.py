"""What docs/embedding.md shows is run: both commands, and the index."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from flows.cli.commands import app
from flows.config.load import load_config
from flows.data.features import evaluation_latents
from flows.stages.map import apply, load_mapping
from flows.stages.pipeline import Pipeline
from tests.runs import small_run, write_config

PAGE = (Path(__file__).parents[3] / "docs" / "embedding.md").read_text(encoding="utf-8")


@pytest.fixture
def run(
    tmp_path: Path, photo_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Pipeline:
    """The finished run of the page, in its folder."""
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = small_run(tmp_path, photo_folder(48))
    settings |= {"root": "tintem-data", "data": {**settings["data"], "name": "photos"}}
    settings["training"]["epochs"] = 12
    done = Pipeline(load_config(write_config(tmp_path, settings, "tintem.yaml")))
    assert done.exported
    return done


@pytest.mark.slow
def test_a_student_finds_photos_in_the_index_of_its_teacher(
    run: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    commands, *_ = re.findall(r"```\n(tintem embed.*?)```", PAGE, re.DOTALL)
    for line in commands.splitlines():
        command = shlex.split(line.replace("/ID", f"/{run.exported.id}"), comments=True)
        told = CliRunner().invoke(app, command[1:])
        assert told.exit_code == 0, told.output
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    capsys.readouterr()
    exec(compile(code, "docs/embedding.md", "exec"), {})
    said = re.findall(r"recall@(\d+): ([\d.]+) \(chance ([\d.]+)\)", capsys.readouterr().out)
    assert [int(k) for k, _, _ in said] == [1, 10]
    assert [float(chance) for _, _, chance in said] == pytest.approx([1 / 48, 10 / 48], abs=1e-3)
    assert float(said[1][1]) > 1.5 * float(said[1][2])
    assert Path("teacher.usearch").exists()

    # The teacher's rows are what the student was trained to give.
    data = run.indexed.data
    latents = evaluation_latents(run.root, run.extracted, data, None)
    mapped = apply(load_mapping(run.config, run.root, run.mapped), latents)
    table = pl.read_parquet("teacher.parquet").sort("key")
    assert table["key"].to_list() == list(data.keys())
    found = table["embedding"].to_numpy()
    cosines = (
        (found * mapped).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(mapped, axis=1)
    )
    # The cache stores 16 bits.
    assert cosines.min() > 0.9999
