"""An objective, an OOD score and an export format from outside go through the whole pipeline."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flows.config.load import parse_config
from flows.stages.pipeline import Pipeline
from tests.photos import photo
from tintem_core.errors import InputError
from tintem_core.evaluation.cosine import unit_rows
from tintem_core.evaluation.ood import SCORES, Bank, OODScore, Scorer
from tintem_core.export.formats import FORMATS, Embed, ExportFormat, Subject
from tintem_core.objectives.base import Objective, Parts, Targets
from tintem_core.objectives.kinds import OBJECTIVES, ObjectiveKind
from tintem_core.views import Pixels


class FirstCoordinates(Objective):
    """The student gives the first coordinates of the teacher's embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def forward(self, embedding_BK: Tensor, tokens: Tensor | None, targets: Targets) -> Tensor:
        return nn.functional.mse_loss(embedding_BK, targets.latents[:, : self._width])


def first_coordinates(parts: Parts) -> Objective:
    return FirstCoordinates(parts.mapping.linear.out_features)


def cosine_to_mean(bank: Bank) -> Scorer:
    mean = unit_rows(unit_rows(bank.embeddings).mean(axis=0, keepdims=True))[0]
    return lambda queries: unit_rows(queries) @ mean


class Program(ExportFormat):
    """The student as a program of torch.export."""

    file = "student.pt2"

    def files(self, subject: Subject) -> dict[str, bytes]:
        example = torch.zeros(2, 3, subject.image_size, subject.image_size)
        batch = {0: torch.export.Dim("batch", min=1)}
        program = torch.export.export(subject.student.eval(), (example,), dynamic_shapes=(batch,))
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files=dict(subject.description))
        return {self.file: buffer.getvalue()}

    def open(self, files: Mapping[str, bytes]) -> Embed:
        module = torch.export.load(io.BytesIO(files[self.file])).module()

        def embed(pixels: Pixels) -> NDArray[np.float32]:
            batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
            with torch.inference_mode():
                embeddings: NDArray[np.float32] = module(batch).numpy()
            return embeddings

        return embed


PROGRAM = Program()


def test_what_is_registered_runs_through_the_pipeline(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = ObjectiveKind(
        build=first_coordinates, loss="error of the first coordinates", trained="trained for a test"
    )
    monkeypatch.setitem(OBJECTIVES, "first-coordinates", kind)
    monkeypatch.setitem(SCORES, "cosine-to-mean", OODScore(cosine_to_mean))
    monkeypatch.setitem(FORMATS, "program", f"{__name__}:PROGRAM")
    (tmp_path / "strange").mkdir()
    for seed in range(5):
        photo(900 + seed, (40, 40)).rotate(45).save(tmp_path / "strange" / f"{seed}.png")
    settings["training"]["objective"] = "first-coordinates"
    strange = {"name": "strange", "uri": str(tmp_path / "strange")}
    settings["evaluation"] |= {"ood": [strange], "ood_score": "cosine-to-mean"}
    settings["export"]["formats"] = ["onnx", "program"]
    done = Pipeline(parse_config(settings, "test"))
    folder = Path(settings["root"]) / "exports" / done.exported.id
    found = done.exported.record["formats"]
    assert set(found) == {"onnx", "program"}
    assert found["program"]["smallest_cosine"] > 0.9999
    assert (folder / "student.pt2").stat().st_size == found["program"]["bytes"]
    assert "trained for a test" in (folder / "card.md").read_text()
    # The score is the one asked for: another one is another evaluation of the same student.
    usual = parse_config({**settings, "evaluation": {**settings["evaluation"],
                          "ood_score": "nearest-cosine"}}, "test")  # fmt: skip
    other = Pipeline(usual)
    assert other.evaluated.id != done.evaluated.id
    assert other.trained.id == done.trained.id
    # The one that was not asked for is told by its name, and measures the same.
    first, second = (run.evaluated.record["metrics"] for run in (done, other))
    assert first["student/strange/auroc"] == second["student/strange/auroc_cosine-to-mean"]
    assert second["student/strange/auroc"] == first["student/strange/auroc_nearest-cosine"]


@pytest.mark.parametrize(
    ("section", "key", "said"),
    [
        ("training", "objective", "no such objective; known are tintem, proteus"),
        ("evaluation", "ood_score", "no such score; known are nearest-cosine"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_are_known(
    settings: dict[str, Any], section: str, key: str, said: str
) -> None:
    settings[section][key] = "unheard-of"
    with pytest.raises(InputError, match=said):
        parse_config(settings, "test")


@pytest.mark.parametrize(
    ("formats", "said"),
    [(["onnx", "onnx"], "each format once"), ([], "begin with onnx"), (["onnx", "x"], "known are")],
)
def test_formats_begin_with_onnx(settings: dict[str, Any], formats: list[str], said: str) -> None:
    settings["export"]["formats"] = formats
    with pytest.raises(InputError, match=said):
        parse_config(settings, "test")
