"""A real teacher tells new photos of the same kind from photos of another kind."""

import csv
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.config.demo import prepare
from flows.config.load import load_config
from flows.retraining.run import RetrainingResult, RetrainingRun

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_MONO = 420


def textiles(count: int) -> list[str]:
    spec = find_spec("conformal_clip_data")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(next(iter(spec.submodule_search_locations)))
    photos = sorted((folder / "data/textile_images/simulated/nominal").iterdir())
    return [str(path) for path in photos[:count]]


class Cells:
    """A growing list of photos of solar cells, and the run that learns from them."""

    def __init__(self, folder: Path) -> None:
        prepare(folder)
        with (folder / "mono-cells.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        # The list follows the solar modules: those of a few modules alone really are a drift.
        random.Random(0).shuffle(rows)
        self.known, self.new = rows[:_MONO], rows[_MONO:]
        self._folder, self._list = folder, folder / "photos.csv"
        self.write(self.known)

    def write(self, rows: list[dict[str, str]]) -> None:
        with self._list.open("w", newline="") as stream:
            table = csv.DictWriter(stream, ("uri", "label"), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)

    def hold(self, **nightly: Any) -> RetrainingResult:
        settings = {
            "root": "results",
            "data": {"name": "cells", "uri": "photos.csv", "label_column": "label"},
            "teacher": {
                "model": "tf_efficientnet_lite0", "weights": "teacher.safetensors",
                "image_size": 128,
            },
            "views": {"count": 2},
            "mapping": {"width": 128, "steps": 50},
            "student": {"model": "test_resnet", "image_size": 64},
            "training": {"epochs": 12, "learning_rate": 5.0e-3, "support": 0},
            "nightly": nightly,
        }  # fmt: skip
        path = self._folder / "cells.yaml"
        path.write_text(yaml.safe_dump(settings))
        return RetrainingRun(load_config(path)).run()


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    cells = Cells(tmp_path_factory.mktemp("cells"))
    ended = cells.hold()
    assert ended.outcome == "promoted", ended.says
    return cells


def drift_of(ended: RetrainingResult) -> dict[str, Any]:
    assert ended.record is not None
    (line,) = ended.record["lines"].values()
    return line["drift"]  # type: ignore[no-any-return]


def test_more_solar_cells_are_no_drift(cells: Cells) -> None:
    cells.write(cells.known + cells.new[:60])
    ended = cells.hold(growth=None)
    assert ended.outcome == "waiting", ended.says
    drift = drift_of(ended)
    assert drift["new"] == 60
    assert drift["share"] < 0.2
    assert drift["chance"] > 0.01
    assert 0.35 < drift["auroc"] < 0.65


def test_one_textile_photo_is_strange_but_may_be_chance(cells: Cells) -> None:
    (uri,) = textiles(1)
    cells.write([*cells.known, {"uri": uri, "label": "textile"}])
    ended = cells.hold(growth=None)
    assert ended.outcome == "waiting"
    assert "1 of 1 new photo is strange (100%), but photos without drift give" in ended.says
    assert drift_of(ended)["chance"] > 0.01


def test_textiles_among_solar_cells_are_drift_and_shown_first(cells: Cells) -> None:
    strange = textiles(30)
    added = [{"uri": uri, "label": "textile"} for uri in strange]
    cells.write(cells.known + cells.new[:30] + added)
    ended = cells.hold(growth=None, drift=0.3)
    drift = drift_of(ended)
    assert drift["strange"] >= 30
    assert drift["chance"] < 1e-6
    assert drift["auroc"] > 0.7
    assert ended.outcome in ("promoted", "kept")
    assert ended.record is not None
    (line,) = ended.record["lines"].values()
    assert any("strange" in reason for reason in line["trigger"]["reasons"])
    assert {photo["uri"] for photo in line["strangest"]} <= set(strange)
