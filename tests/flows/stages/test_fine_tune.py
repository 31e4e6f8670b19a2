"""The student trained on labels, beside its network that knows nothing yet."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from safetensors.torch import load_file
from torch import Tensor

from flows.config.checks import metrics_of
from flows.reporting.base import reporting_to
from flows.stages import fine_tune
from flows.stages.fine_tune import SEEDS
from flows.stages.pipeline import Pipeline
from flows.stages.preflight import preflight
from storage.artifacts import list_artifacts
from tests.flows.stages.test_pipeline import configured
from tests.runs import Notes
from tintem_core.errors import InputError


@pytest.fixture
def settings(settings: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Some photos have no label."""
    photos = sorted(Path(settings["data"]["uri"]).rglob("*.png"))
    labels = [None if i % 8 == 7 else f"class {i % 2}" for i in range(len(photos))]
    table = tmp_path / "labels.csv"
    pl.DataFrame({"uri": map(str, photos), "label": labels}).write_csv(table)
    settings["data"]["uri"] = str(table)
    return settings


def test_both_get_the_same_recipe_and_only_one_of_them_starts_from_the_student(
    settings: dict[str, Any],
) -> None:
    plain = Pipeline(configured(settings))
    assert plain.evaluated
    config = configured(settings, evaluation__fine_tune_epochs=3)
    run, notes = Pipeline(config), Notes()
    with reporting_to(notes):
        record = run.evaluated.record
    assert run.trained.id == plain.trained.id
    added = set(record["metrics"]) - set(plain.evaluated.record["metrics"])
    assert added == set(metrics_of(config)) - set(metrics_of(plain.config))
    own, scratch, gain = (
        record["metrics"][name]
        for name in ("student/test/fine_tuned", "from scratch/test/fine_tuned",
                     "student/test/fine_tuned_gain")
    )  # fmt: skip
    assert gain == pytest.approx(own - scratch)
    rows = {(row["subject"], row["name"]): row for row in record["rows"]}
    row = rows["student", "fine_tuned"]
    # Photos without a label are in neither part.
    labels = run.indexed.data.labels("test")
    assert row["n"] == sum(label is not None for label in labels) < len(labels)
    assert 0.3 < row["chance"] < 0.7
    assert row["value"] * row["n"] * SEEDS == pytest.approx(round(row["value"] * row["n"] * SEEDS))

    tuned = [
        thing.record for thing in list_artifacts(run.root, "students") if thing.record["classes"]
    ]
    assert len(tuned) == 2 * SEEDS
    specs = [each["spec"] for each in tuned]
    assert all(each["epochs"] == 3 and each["objective"] == "supervised" for each in tuned)
    starts = [spec["student"]["weights"] for spec in specs]
    assert starts.count(None) == SEEDS
    assert len(set(starts)) == 2
    recipes = [{k: v for k, v in spec["training"].items() if k != "seed"} for spec in specs]
    assert all(recipe == recipes[0] for recipe in recipes)
    assert len({spec["images"] for spec in specs}) == 1

    def weights(id: str) -> Tensor:
        found = load_file(Path(run.root.url) / "students" / id / "student.safetensors")
        return next(tensor for tensor in found.values() if tensor.ndim == 4)

    moved: dict[bool, list[float]] = {True: [], False: []}
    for thing in list_artifacts(run.root, "students"):
        if thing.record["classes"]:
            far = (weights(thing.id) - weights(run.trained.id)).norm()
            moved[thing.record["spec"]["student"]["weights"] is None].append(float(far))
    # The first one from scratch has the weights that the student had before it learnt anything.
    assert max(moved[False]) < 0.5 * sorted(moved[True])[1]


def test_a_killed_comparison_goes_on_with_the_trainings_that_are_missing(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(settings, evaluation__fine_tune_epochs=1)
    done, train = [], fine_tune.train

    def dies(*arguments: Any) -> Any:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(train(*arguments))
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(fine_tune, "train", dies)
        with pytest.raises(KeyboardInterrupt):
            assert Pipeline(config).evaluated
    notes = Notes()
    with reporting_to(notes):
        assert Pipeline(config).evaluated
    reused = [note for note in notes.notes if note.endswith(": reused")]
    assert [f"student {each.id}: reused" for each in done] == [
        note for note in reused if note.split()[1] in {f"{each.id}:" for each in done}
    ]
    assert len(done) == 4
    assert "Train test_resnet" in notes.work


def test_labels_are_asked_for_before_anything_starts(settings: dict[str, Any]) -> None:
    settings["data"]["labels"] = "none"
    config = configured(settings, evaluation__fine_tune_epochs=1)
    with pytest.raises(InputError, match=r"evaluation\.fine_tune_epochs trains on labels"):
        preflight(config)


def test_one_class_is_not_tuned_on_and_it_is_said_why(settings: dict[str, Any]) -> None:
    table = Path(settings["data"]["uri"])
    pl.read_csv(table).with_columns(label=pl.lit("same")).write_csv(table)
    notes = Notes()
    with reporting_to(notes):
        run = Pipeline(configured(settings, evaluation__fine_tune_epochs=1))
        assert "student/test/fine_tuned" not in run.evaluated.record["metrics"]
    assert any("shapes is not fine-tuned on" in note for note in notes.notes)


@pytest.mark.parametrize(
    "learns",
    [
        {
            "cache": {"tokens": True, "keep_mapped": True},
            "training": {"local_weight": 1.0, "centred_weight": 1.0, "warmup_epochs": 2},
        },
        {"mapping": {"fit": "joint"}, "training": {"select": "best", "validation_share": 0.3}},
        {"training": {"objective": "proteus", "schedule": "multistep", "decay_milestones": [2]}},
    ],
    ids=["mapped tokens", "joint mapping", "baseline"],
)
def test_whatever_a_student_learns_from_it_is_fine_tuned(
    settings: dict[str, Any], learns: dict[str, Any]
) -> None:
    for section, values in learns.items():
        settings[section] |= values
    run = Pipeline(configured(settings, evaluation__fine_tune_epochs=1))
    assert "student/test/fine_tuned_gain" in run.evaluated.record["metrics"]
