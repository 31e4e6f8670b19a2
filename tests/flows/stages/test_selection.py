"""Weights chosen by photos that a student never learns from."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from flows.config.run import RunConfig
from flows.data.loader import StepDataset
from flows.stages import selection
from flows.stages import train as stage
from flows.stages import training_data as taught
from flows.stages.models import load_objective, load_student
from flows.stages.pipeline import Pipeline
from flows.stages.selection import Validation, held_out, learnt_from, scored_by_labels
from storage.root import open_root
from tests.flows.stages.test_objectives import student_folder
from tests.flows.stages.test_pipeline import configured
from tests.photos import photo
from tintem_core.errors import InputError
from tintem_core.models.device import place
from tintem_core.training.state import Learner


@pytest.fixture
def chosen(settings: dict[str, Any]) -> dict[str, Any]:
    settings["training"] |= {
        "epochs": 6, "batch_size": 8, "select": "best", "validation_share": 0.25,
        "validate_every": 2, "learning_rate": 0.02,
    }  # fmt: skip
    return settings


def held(pipeline: Pipeline) -> set[str]:
    everything = pipeline.indexed.data
    return set(everything.keys("train")) - set(
        learnt_from(pipeline.config, pipeline.indexed).data.keys("train")
    )


def learner(pipeline: Pipeline) -> Learner:
    before = (pipeline.config, pipeline.root, pipeline.mapped, pipeline.trained)
    loaded = Learner(load_student(*before), load_objective(*before), "float32").eval()
    # As in training: some processors sum in another order where channels do not come last.
    return place(loaded, "cpu")


def score_again(pipeline: Pipeline) -> float:
    validation = Validation(
        pipeline.config, pipeline.root, pipeline.indexed.data, pipeline.extracted
    )
    return validation(learner(pipeline))


def curve(pipeline: Pipeline) -> pl.DataFrame:
    return pl.read_parquet(student_folder(pipeline) / "history.parquet")


def test_photos_held_out_are_the_same_whatever_comes_moves_or_is_named_otherwise(
    chosen: dict[str, Any], tmp_path: Path
) -> None:
    before = Pipeline(configured(chosen))
    first = held(before)
    total = len(before.indexed.data.keys("train"))
    assert 0.05 * total < len(first) < 0.5 * total
    folder = Path(chosen["data"]["uri"])
    for path in sorted(folder.rglob("*.png"))[::3]:
        shutil.move(path, path.with_name(f"moved-{path.name}"))
    for i in range(100, 130):
        photo(i).save(folder / "disc" / f"new-{i}.png")
    after = Pipeline(configured(chosen))
    known = set(before.indexed.data.keys())
    assert len(after.indexed.data.keys()) == len(known) + 30
    assert held(after) & known == first
    # Another draw than the one for the test photos.
    assert held(after) - known
    assert not first & set(before.indexed.data.keys("test"))


def test_no_photo_held_out_is_ever_in_a_batch(
    chosen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Watched(StepDataset):
        def _photo_views(self, epoch: int, rows: Any) -> Any:
            seen.extend(self._taught.pixels._source.keys[row] for row in rows.tolist())
            return super()._photo_views(epoch, rows)

    monkeypatch.setattr(taught, "StepDataset", Watched)
    pipeline = Pipeline(configured(chosen, training__batch_size=4, training__epochs=12))
    assert pipeline.trained
    assert held(pipeline)
    everything = set(pipeline.indexed.data.keys("train"))
    assert set(seen) == everything - held(pipeline)


@pytest.mark.parametrize("objective", ["tintem", "proteus", "linear-cosine", "supervised"])
def test_the_stored_weights_are_the_ones_that_scored_best(
    chosen: dict[str, Any], objective: str
) -> None:
    pipeline = Pipeline(configured(chosen, training__objective=objective))
    selected = pipeline.trained.record["selected"]
    scores = curve(pipeline).drop_nulls("validation")
    assert scores["epoch"].to_list() == [2, 4, 6]
    assert curve(pipeline).height == 6
    best = scores.filter(pl.col("validation") == scores["validation"].max()).row(0, named=True)
    assert selected["epoch"] == best["epoch"]
    assert selected["score"] == best["validation"] == score_again(pipeline)
    assert selected["by"].startswith("kNN (k = ")
    assert selected["validation_photos"] == len(held(pipeline))
    assert pipeline.evaluated.record["test_photos"]


@pytest.mark.parametrize(
    "change",
    [
        {}, {"training__objective": "proteus"}, {"training__objective": "linear-cosine"},
        {"mapping__fit": "joint"}, {"training__ema_decay": 0.5},
    ],
    ids=["tintem", "proteus", "linear-cosine", "joint", "average"],
)  # fmt: skip
def test_without_labels_the_explained_variance_chooses(
    chosen: dict[str, Any], photo_folder: Callable[..., Path], change: dict[str, Any]
) -> None:
    config = configured(chosen, data__uri=str(photo_folder(48, name="flat")), **change)
    pipeline = Pipeline(config)
    selected = pipeline.trained.record["selected"]
    assert selected["by"] == "R²"
    assert selected["score"] < 1
    assert selected["score"] == curve(pipeline)["validation"].max()
    assert score_again(pipeline) == pytest.approx(selected["score"], abs=1e-12)


def test_one_class_for_all_photos_is_no_label_to_choose_by(
    chosen: dict[str, Any], photo_folder: Callable[..., Path]
) -> None:
    folder = photo_folder(48, classes=("all",), name="one")
    pipeline = Pipeline(configured(chosen, data__uri=str(folder), data__labels="folders"))
    assert set(pipeline.indexed.data.labels()) == {"all"}
    assert pipeline.trained.record["selected"]["by"] == "R²"


def test_an_earlier_epoch_is_kept_when_it_was_better(
    chosen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[float, dict[str, torch.Tensor]] = {}
    scores = iter([0.2, 0.9, 0.9])

    def score(_self: Validation, learner: Learner) -> float:
        found = next(scores)
        kept.setdefault(found, {k: v.clone() for k, v in learner.student.state_dict().items()})
        return found

    monkeypatch.setattr(Validation, "__call__", score)
    pipeline = Pipeline(configured(chosen))
    assert pipeline.trained.record["selected"]["epoch"] == 4
    stored = load_file(student_folder(pipeline) / "student.safetensors")
    card = Path(chosen["root"]) / "exports" / pipeline.exported.id / "card.md"
    assert "on photos held out" in card.read_text()
    learnt = len(pipeline.indexed.data.keys("train")) - len(held(pipeline))
    assert f"| Photos | learnt from |  | {learnt} |" in card.read_text()
    assert stored.keys() == kept[0.9].keys()
    for name, tensor in stored.items():
        assert torch.equal(tensor, kept[0.9][name])


def test_an_extension_chooses_among_its_own_epochs(chosen: dict[str, Any]) -> None:
    chosen["training"].update(epochs=8, extends=4)
    pipeline = Pipeline(configured(chosen))
    assert pipeline.trained.record["selected"]["epoch"] in (6, 8)
    assert curve(pipeline)["validation"].is_not_null().to_list() == [False, True] * 4


def test_the_last_weights_keep_their_id_and_what_is_held_out_gives_another(
    chosen: dict[str, Any],
) -> None:
    last = configured(chosen, training__select="last")
    plain = {k: v for k, v in chosen["training"].items() if not k.startswith(("sel", "val"))}
    identity = last.training.identity(2)
    assert identity == configured({**chosen, "training": plain}).training.identity(2)
    assert not {"select", "validation_share", "validate_every", "select_knn"} & set(identity)
    ids = {
        str(configured(chosen, **{f"training__{name}": value}).training.identity(2))
        for name, value in {
            "select": "last", "validation_share": 0.3, "validate_every": 3, "select_knn": 5,
            "epochs": 6,
        }.items()
    }  # fmt: skip
    assert len(ids) == 5


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_too_few_photos_to_choose_by_or_to_learn_from_are_told_before_any_work(
    chosen: dict[str, Any], share: float
) -> None:
    pipeline = Pipeline(configured(chosen, training__validation_share=share))
    with pytest.raises(InputError, match=r"at least 4 are needed for each: set training\.select"):
        _ = pipeline.indexed
    assert not list(open_root(chosen["root"]).list("caches"))


def test_labels_that_a_choice_goes_by_are_part_of_the_students_id(
    chosen: dict[str, Any], photo_folder: Callable[..., Path]
) -> None:
    def student(config: RunConfig) -> str:
        run = Pipeline(config)
        return stage.train(run.config, run.root, run.indexed, run.all_caches, run.mapped).id

    chosen["training"]["epochs"] = 1
    photo_folder(48, classes=("all",), name="other")
    renamed = {"data__uri": str(Path(chosen["data"]["uri"]).parent / "other")}
    assert student(configured(chosen)) != student(configured(chosen, **renamed))
    last = {"training__select": "last"}
    assert student(configured(chosen, **last)) == student(configured(chosen, **renamed, **last))


def test_a_share_close_to_the_one_asked_for_is_held_out(config: RunConfig) -> None:
    keys = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(10_000)]
    data: Any = SimpleNamespace(name="many", keys=lambda _split: keys)
    assert held_out(config, data).mean() == pytest.approx(0.1, abs=0.01)


class Labelled:
    """So many training photos, every second one held out by its key, with some labels."""

    name = "shapes"

    def __init__(self, labels: list[str | None]) -> None:
        self._labels = labels

    def keys(self, split: str) -> list[str]:
        return [f"{i:024x}{0 if i % 2 else 2**32 - 1:08x}" for i in range(len(self._labels))]

    def labels(self, split: str) -> list[str | None]:
        return self._labels


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "classes", "over"),
    [
        (20, 0, 2, 20),
        (20, 0, 1, None),
        (100, 40, 2, 100),
        (98, 40, 2, None),
        (100, 40, 1, None),
        (0, 40, 1, None),
    ],
)
def test_labels_choose_the_weights_where_enough_photos_held_out_have_them(
    chosen: dict[str, Any], labelled: int, unlabelled: int, classes: int, over: int | None
) -> None:
    names = [str(i // 2 % classes) for i in range(labelled)]
    data: Any = Labelled([*names, *[None] * unlabelled])
    found = scored_by_labels(configured(chosen), data)
    assert (None if found is None else int(found.sum())) == over


def test_photos_without_a_label_take_no_part_in_a_validation_by_knn(
    chosen: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(selection, "_FEWEST_LABELLED", 2)
    table = tmp_path / "photos.csv"
    folder = Path(chosen["data"]["uri"])
    paths = sorted(folder.rglob("*.png"))
    rows = [f"{path},{'' if i % 4 == 0 else path.parent.name}" for i, path in enumerate(paths)]
    table.write_text("\n".join(["path,label", *rows]))
    chosen["data"]["uri"] = str(table)
    pipeline = Pipeline(configured(chosen))
    data = pipeline.indexed.data
    labelled = {k for k, label in zip(data.keys(), data.labels(), strict=True) if label is not None}
    validation = Validation(pipeline.config, pipeline.root, data, pipeline.extracted)
    assert validation.by.startswith("kNN")
    assert validation.photos == len(held(pipeline) & labelled) < len(held(pipeline))
