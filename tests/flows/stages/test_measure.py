"""What an evaluation measures, what it tells, and what becomes of those of older releases."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.config.checks import metrics_of
from flows.config.run import RunConfig
from flows.experiments.leaderboard import leaderboard
from flows.experiments.plot import draw
from flows.reporting.base import reporting_to
from flows.reporting.summary import Row, summary_rows
from flows.stages.pipeline import Pipeline
from storage.artifacts import read_file, read_record
from storage.identity import make_id
from tests.flows.stages.test_pipeline import configured
from tests.runs import Notes
from tintem_core.errors import InputError
from tintem_core.evaluation.metrics import ALL


@pytest.fixture
def settings(settings: dict[str, Any], photo_folder: Callable[..., Path]) -> dict[str, Any]:
    # More than 20 to test on in each set: of fewer, some metrics are left out.
    photo_folder(24, classes=("disc", "plain"), first=48)
    settings["data"]["test_share"] = 0.4
    other = photo_folder(24, name="other", first=100)
    settings["evaluation"]["ood"] = [{"name": "other", "uri": str(other)}]
    return settings


def told(pipeline: Pipeline, evaluation: dict[str, Any]) -> dict[tuple[str, str], Row]:
    """Return the summary of a run as if it had been exported."""
    export = {
        "latency_ms": {"teacher": 1.0, "student": 1.0, "student_onnx": 1.0},
        "model": {"bytes": 1},
        "teacher_parameters": 1,
    }
    records = (pipeline.mapped.record, pipeline.trained.record, evaluation, export)
    rows = summary_rows(pipeline.config, pipeline.indexed.photos(), *records)
    return {(row.group, row.label): row for row in rows}


@pytest.mark.parametrize("objective", ["tintem", "proteus", "supervised"])
def test_the_catalogue_names_what_is_measured(settings: dict[str, Any], objective: str) -> None:
    settings["evaluation"]["probes"] = ["linear", "logistic"]
    pipeline = Pipeline(configured(settings, training__objective=objective))
    record = pipeline.evaluated.record
    assert set(metrics_of(pipeline.config)) == set(record["metrics"])
    numbers = [[row["value"], row["low"], row["high"]] for row in record["rows"]]
    assert np.isfinite(numbers).all()
    subject = {"tintem": "student", "proteus": "head"}.get(objective)
    has_shared = f"{subject}/test/same_photo_at_1" in record["metrics"]
    assert has_shared == (objective != "supervised")
    assert f"student/{ALL}/pairwise_pearson" in record["metrics"]
    groups = list(dict.fromkeys(group for group, _ in told(pipeline, record)))[3:]
    wanted = ["Faithfulness", "Asked in the teacher's index", "Accuracy", "Out of distribution"]
    if objective == "supervised":
        wanted.remove("Asked in the teacher's index")
    assert all(g.startswith(w) for g, w in zip(groups, wanted, strict=True))
    assert any("training head" in group for group in groups) == (objective == "proteus")


def test_numbers_stand_beside_what_nothing_would_reach(settings: dict[str, Any]) -> None:
    pipeline = Pipeline(configured(settings))
    record = pipeline.evaluated.record
    photos, metrics = record["test_photos"], record["metrics"]
    constant = metrics["constant/test/cosine_to_mapped"]
    rows = {label: row for (_, label), row in told(pipeline, record).items()}
    cosine = rows["cosine to the mapped teacher"]
    assert cosine.teacher == f"(constant answer {constant:.3f})"
    assert cosine.student.startswith(f"{metrics['student/test/cosine_to_mapped']:.3f} [")
    assert rows["same photo found first"].teacher == f"(chance {1 / photos:.3f})"
    assert rows["same 10 nearest neighbours"].teacher == f"(chance {10 / (photos - 1):.3f})"
    fitted = metrics["mapped/test/pairwise_pearson"]
    assert rows["pairwise cosines, Pearson"].teacher == f"(mapped teacher {fitted:.3f})"
    assert not any("Spearman" in label for label in rows)


def test_angles_lie_between_a_mapping_at_random_and_the_fitted_one(
    settings: dict[str, Any],
) -> None:
    record = Pipeline(configured(settings)).evaluated.record
    for name in ("test/pairwise_pearson", "other/pairwise_pearson", f"{ALL}/pairwise_pearson"):
        random, fitted = (
            record["metrics"][f"{who}/{name}"] for who in ("random mapping", "mapped")
        )
        assert 0 < random < fitted <= 1


def test_the_threshold_of_an_outlier_is_stored_and_keeps_its_rate(settings: dict[str, Any]) -> None:
    pipeline = Pipeline(configured(settings, evaluation__false_alarm_rate=0.25))
    record = pipeline.evaluated.record
    scores = table_of(pipeline, "ood_scores")
    for who in ("teacher", "student"):
        own = scores.filter((pl.col("subject") == who) & (pl.col("dataset") == "test"))["score"]
        assert (own < record["ood_thresholds"][who]).sum() == int(0.25 * record["test_photos"])
    assert "student/other/auroc_mahalanobis" in record["metrics"]
    assert Pipeline(configured(settings)).evaluated.id != pipeline.evaluated.id


def test_what_limits_the_student_is_said_and_stored(settings: dict[str, Any]) -> None:
    notes = Notes()
    with reporting_to(notes):
        record = Pipeline(configured(settings)).evaluated.record
    (said,) = (note for note in notes.notes if note.startswith("what limits it: "))
    limits = record["limits"]
    assert limits["r2_test"] == pytest.approx(record["metrics"]["student/test/r2_to_mapped"])
    assert f"{limits['r2_train']:.2f} of its target's variance" in said
    supervised = Pipeline(configured(settings, training__objective="supervised"))
    assert supervised.evaluated.record["limits"] is None


def test_every_class_has_its_row(settings: dict[str, Any]) -> None:
    pipeline = Pipeline(configured(settings))
    metrics, found = pipeline.evaluated.record["metrics"], table_of(pipeline, "classes")
    assert sorted(found["label"]) == ["disc", "plain"]
    assert found["n"].sum() == pipeline.evaluated.record["test_photos"]
    shares = found["n"] / found["n"].sum()
    for column, name in (
        ("knn", "student/test/knn"),
        ("teacher_knn", "teacher/test/knn"),
        ("faithfulness", "student/test/cosine_to_mapped"),
    ):
        assert (found[column] * shares).sum() == pytest.approx(metrics[name])
    assert found["knn"].mean() == pytest.approx(metrics["student/test/knn_over_classes"])
    assert found["knn"].is_sorted()


def test_the_same_classes_under_other_conditions_are_scored_by_their_labels(
    settings: dict[str, Any], photo_folder: Callable[..., Path]
) -> None:
    settings["evaluation"]["ood"] = [
        {"name": "dusk", "uri": str(photo_folder(24, ("disc", "plain"), name="dusk", first=400))}
    ]
    plain = Pipeline(configured(settings)).evaluated.record["metrics"]
    assert not any(name.startswith("student/dusk/knn") for name in plain)
    shifted = Pipeline(configured(settings, evaluation__shifts={"dusk": "covariate"}))
    record = shifted.evaluated.record
    assert set(metrics_of(shifted.config)) == set(record["metrics"])
    (row,) = (r for r in record["rows"] if (r["subject"], r["dataset"], r["name"]) == (
        "student", "dusk", "knn"))  # fmt: skip
    assert row["n"] == 24
    group = "Out of distribution: dusk (covariate)"
    assert told(shifted, record)[group, "kNN, k = 10 (chance 0.500)"].student.startswith(
        f"{row['value']:.3f}"
    )
    with pytest.raises(InputError, match=r"no set of evaluation\.ood is named 'dawn'"):
        configured(settings, evaluation__shifts={"dawn": "near"})


def table_of(pipeline: Pipeline, name: str) -> pl.DataFrame:
    stored = read_file(pipeline.root, "evaluations", pipeline.evaluated.id, f"{name}.parquet")
    return pl.read_parquet(io.BytesIO(stored))


def test_accuracies_stand_beside_the_most_frequent_class(settings: dict[str, Any]) -> None:
    settings["evaluation"]["probes"] = ["logistic"]
    pipeline = Pipeline(configured(settings))
    data = pipeline.indexed.data
    names = data.labels("train")
    usual = max(sorted(set(names), key=str), key=names.count)
    wanted = np.mean([label == usual for label in data.labels("test")])
    found = {
        (row["subject"], row["name"]): row["chance"]
        for row in pipeline.evaluated.record["rows"]
        if row["name"] in ("knn", "logistic_probe")
    }
    assert set(found) == {(who, what) for who in ("teacher", "student")
                          for what in ("knn", "logistic_probe")}  # fmt: skip
    assert set(found.values()) == {wanted}
    rows = {label: row for (_, label), row in told(pipeline, pipeline.evaluated.record).items()}
    assert f"probe (L-BFGS) (chance {wanted:.3f})" in rows


def test_a_students_embeddings_are_stored_once_and_only_new_photos_are_embedded(
    settings: dict[str, Any], photo_folder: Callable[..., Path]
) -> None:
    notes = Notes()
    with reporting_to(notes):
        first = Pipeline(configured(settings)).evaluated
    work = {title: done for title, done in notes.work.items() if title.startswith("Embed")}
    assert work == {"Embed shapes": 72, "Embed other": 24}
    again = Notes()
    with reporting_to(again):
        second = Pipeline(configured(settings, evaluation__knn=3)).evaluated
    assert second.id != first.id
    assert not any(title.startswith("Embed") for title in again.work)
    photo_folder(2, name="other", first=500)
    more = Notes()
    with reporting_to(more):
        assert Pipeline(configured(settings, evaluation__knn=3)).evaluated
    assert {t: n for t, n in more.work.items() if t.startswith("Embed")} == {"Embed other": 2}


def test_what_an_older_release_measured_is_measured_again(settings: dict[str, Any]) -> None:
    config = configured(settings)
    pipeline = Pipeline(config)
    found = pipeline.evaluated
    # Of a release whose records carried no check.
    old = copy.deepcopy(read_record(pipeline.root, "evaluations", found.id))
    del old["spec"]["method"]
    old["rows"] = [
        {name: value for name, value in row.items() if name != "chance"}
        for row in old["rows"]
        if row["subject"] != "constant" and not row["name"].startswith(("r2", "same_", "shared"))
    ]
    old["metrics"] = {f"{r['subject']}/{r['dataset']}/{r['name']}": r["value"] for r in old["rows"]}
    old["created"] = "2026-01-01T00:00:00+00:00"
    old["id"] = make_id(f"{config.student.model}-{config.data.name}", old["spec"])
    old["files"] = {}
    assert old["id"] != found.id
    pipeline.root.write(f"evaluations/{old['id']}/record.json", json.dumps(old).encode())

    again = Pipeline(config).evaluated
    assert (again.id, again.reused) == (found.id, True)
    rows = told(pipeline, old)
    assert rows["Accuracy", "same kNN answer"].student != "–"
    assert not any(group.startswith("Asked") for group, _ in rows)
    (group,) = leaderboard(pipeline.root, "student/test/r2_to_mapped").groups
    assert group.table["evaluation"].to_list() == [found.id]
    pipeline.root.delete(f"evaluations/{found.id}")
    with pytest.raises(InputError, match="no student was measured by"):
        leaderboard(pipeline.root, "student/test/r2_to_mapped")
    assert leaderboard(pipeline.root).groups[0].table["value"].null_count() == 0


def test_the_teacher_in_its_own_index_is_the_teacher(settings: dict[str, Any]) -> None:
    pipeline = Pipeline(configured(settings))
    metrics = pipeline.evaluated.record["metrics"]
    (group,) = leaderboard(pipeline.root, "student/test/shared_knn").groups
    assert group.teacher.measured
    assert group.teacher.value == metrics["teacher/test/knn"]
    assert draw(leaderboard(pipeline.root, "student/test/same_photo_at_10").groups[0])


def test_all_is_no_name_for_one_set(settings: dict[str, Any]) -> None:
    settings["evaluation"]["ood"][0]["name"] = "all"
    with pytest.raises(InputError, match="nor 'all', which is all sets together"):
        configured(settings)


def test_unlabelled_photos_have_no_neighbours_that_vote(
    settings: dict[str, Any], photo_folder: Callable[..., Path]
) -> None:
    config: RunConfig = configured(settings, data__uri=str(photo_folder(72, name="flat")))
    names = {name.rpartition("/")[2] for name in Pipeline(config).evaluated.record["metrics"]}
    assert "shared_knn" not in names
    assert "same_photo_at_10" in names


def test_photos_without_a_label_leave_the_others_their_scores(
    settings: dict[str, Any], photo_folder: Callable[..., Path]
) -> None:
    every = Pipeline(configured(settings)).evaluated.record
    loose = photo_folder(12, first=300)
    (loose / "photo-0300-copy.png").write_bytes((loose / "photo-0300.png").read_bytes() + b"more")
    notes = Notes()
    with reporting_to(notes):
        pipeline = Pipeline(configured(settings))
        some = pipeline.evaluated.record
    labels = pipeline.indexed.data.labels("test")
    labelled = sum(label is not None for label in labels)
    assert 0 < labelled < len(labels)
    counts = {row["n"] for row in some["rows"] if row["name"] == "knn"}
    assert counts == {labelled}
    assert set(some["metrics"]) == set(every["metrics"])
    told = f"scores by labels are over the {labelled} of {len(labels)} test photos of shapes"
    assert [note for note in notes.notes if note.startswith(told)]
    name = pipeline.config.data.name
    assert notes.notes[0] == (
        f"84 photos of {name}: 72 labelled, 12 unlabelled, 2 classes; left out: 1 other files of "
        "the same pixels"
    )
