"""Photos told apart by their labels, and by what is written beside them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from flows.config.evaluation import EvaluationConfig
from flows.reporting.base import reporting_to
from flows.reporting.groups import worst_groups
from flows.reporting.measures import Measures
from flows.stages.measure_classes import MOST_GROUPS, per_group, per_photo, per_value
from flows.stages.peers import questions
from flows.stages.pipeline import Pipeline
from flows.stages.results import from_ids, to_ids
from flows.stages.spaces import Classes, Spaces
from storage.artifacts import read_file
from tests.flows.stages.test_pipeline import configured
from tests.runs import Notes
from tintem_core.errors import InputError


def spaces(angles: list[float], teacher: list[float] | None = None) -> Spaces:
    """Return embeddings on the unit circle: the student's, and what it was asked for."""
    student, asked = (
        np.stack([np.cos(a), np.sin(a)], 1).astype(np.float32)
        for a in (np.array(angles), np.array(angles if teacher is None else teacher))
    )
    return Spaces(asked, student, mapped=asked)


def measured(strange: list[bool], classes: Classes | None) -> pl.DataFrame:
    train = spaces([0.0, 1.5])
    test = spaces([0.1, 1.4, 0.1, 1.4], [0.1, 1.4, 0.1, 0.2])
    return per_photo(EvaluationConfig(knn=1), train, test, classes, np.array(strange))


def test_every_photo_is_measured_by_itself() -> None:
    numbers = np.array([0, 1, 1, -1])
    classes = Classes(("disc", "plain"), np.array([0, 1]), {"test": numbers})
    found = measured([False, False, True, False], classes)
    assert found["label"].to_list() == ["disc", "plain", "plain", None]
    assert found["knn"].to_list() == found["teacher_knn"].to_list() == [True, True, False, None]
    assert found["false_alarms"].to_list() == [False, False, True, False]
    np.testing.assert_allclose(found["faithfulness"], [1, 1, 1, np.cos(1.2)], atol=1e-6)


def test_without_labels_faithfulness_says_which_group_is_worst_and_else_false_alarms() -> None:
    photos = measured([False, False, True, False], None)
    assert photos["knn"].null_count() == photos["label"].null_count() == 4
    values = pl.Series("site", ["a", "a", "b", "b"])
    found = per_value(photos, values)
    assert found["value"].to_list() == ["b", "a"]
    assert (found["n"].to_list(), found["labelled"].to_list()) == ([2, 2], [0, 0])
    assert found["knn"].null_count() == 2
    np.testing.assert_allclose(found["faithfulness"], [(1 + np.cos(1.2)) / 2, 1], atol=1e-6)
    unasked = photos.with_columns(faithfulness=pl.lit(None, pl.Float32))
    assert per_value(unasked, values)["false_alarms"].to_list() == [0.5, 0.0]


def test_of_many_values_those_of_most_photos_are_kept() -> None:
    several = [value for value in range(MOST_GROUPS) for _ in range(2)]
    values = [f"{value:02}" for value in (*several, *range(90, 99))] + [None]
    photos = pl.DataFrame({
        "knn": pl.Series([None] * len(values), dtype=pl.Boolean),
        "teacher_knn": pl.Series([None] * len(values), dtype=pl.Boolean),
        "faithfulness": np.linspace(1, 0, len(values)),
        "false_alarms": [False] * len(values),
    })  # fmt: skip
    found = per_group(photos, pl.DataFrame({"serial": values, "site": ["x"] * len(values)}))
    serial = found.filter(pl.col("column") == "serial")
    assert serial["value"].to_list() == sorted({f"{v:02}" for v in several}, reverse=True)
    assert found.filter(pl.col("column") == "site")["n"].to_list() == [len(values)]


def rows_of(**values: float) -> Measures:
    rows = [
        {"subject": "student", "dataset": "test", "name": name, "value": value}
        for name, value in values.items()
    ]
    return Measures(rows)


def test_the_worst_group_is_named_where_it_has_ten_photos() -> None:
    names = ("column", "value", "n", "labelled", "knn", "teacher_knn", "faithfulness")
    rows = [
        ("site", "few", 9, 9, 0.1, 0.2, 0.9),
        ("site", "dark", 40, 10, 0.5, 0.75, 0.8),
        ("site", "light", 90, 90, 0.9, 0.9, 0.7),
        ("camera", "alone", 90, 90, 0.9, 0.9, 0.7),
    ]
    groups = pl.DataFrame(rows, schema=names, orient="row")
    assert worst_groups(groups, rows_of(knn=0.84, cosine_to_mapped=0.8)) == [
        "By site, the student is least accurate for dark: 50% [24%, 76%] of 10 photos right "
        "(the teacher 75%), of all photos 84%."
    ]
    assert worst_groups(groups.reverse(), rows_of(cosine_to_mapped=0.8)) == [
        "By site, the student is least faithful for light: cosine 0.700 over 90 photos, over all "
        "0.800."
    ]
    assert worst_groups(groups, rows_of()) == []


def write_table(folder: Path, sites: Callable[[int], str]) -> str:
    """Write a table of the photos of the fixtures, which are of two classes in turn."""
    lines = [
        f"photos/{('disc', 'plain')[i % 2]}/photo-{i:04d}.png,{('disc', 'plain')[i % 2]},{sites(i)}"
        for i in range(48)
    ]
    table = folder / "photos.csv"
    table.write_text("\n".join(["uri,label,site", *lines]))
    return str(table)


def test_groups_are_measured_and_known_again_by_their_values(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    settings["data"] |= {"uri": write_table(tmp_path, lambda i: "abc "[i % 4]), "test_share": 0.4}
    plain = Pipeline(configured(settings))
    assert "groups" not in plain.evaluated.record["spec"]
    assert not [name for name in plain.root.list("evaluations") if name.endswith("groups.parquet")]

    config = configured(settings, evaluation__groups=["site"])
    notes = Notes()
    with reporting_to(notes):
        run = Pipeline(config)
        found = run.evaluated
    assert (run.trained.id, run.trained.reused) == (plain.trained.id, True)
    asked = "student/test/knn"
    assert questions(found.record, asked) == questions(plain.evaluated.record, asked)
    table = pl.read_parquet(
        io.BytesIO(read_file(run.root, "evaluations", found.id, "groups.parquet"))
    )
    photos, without = found.record["test_photos"], found.record["groups"]["site"]["photos_without"]
    assert sorted(table["value"]) == ["a", "b", "c"]
    assert 0 < without == photos - table["n"].sum()
    said = f"site: 3 values over {photos - without} test photos; {without} without a value"
    assert said in notes.notes
    # Every photo of a and c is a disc, every one of b is plain.
    classes = pl.read_parquet(
        io.BytesIO(read_file(run.root, "evaluations", found.id, "classes.parquet"))
    )
    discs = table.filter(pl.col("value") != "b")
    wanted = classes.row(by_predicate=pl.col("label") == "disc", named=True)
    assert discs["n"].sum() == wanted["n"]
    for name in ("knn", "teacher_knn", "faithfulness", "false_alarms"):
        assert (discs[name] * discs["n"]).sum() / wanted["n"] == pytest.approx(wanted[name])

    handed = json.loads(json.dumps(to_ids(run.indexed, run.extracted, run.mapped)))
    assert from_ids(run.root, handed)[0].groups.equals(run.indexed.groups)
    assert Pipeline(config).evaluated.id == found.id
    write_table(tmp_path, lambda i: "xbc "[i % 4])
    assert Pipeline(config).evaluated.id != found.id
    assert Pipeline(configured(settings)).evaluated.id == plain.evaluated.id
    write_table(tmp_path, lambda i: " ")
    with pytest.raises(InputError, match=r"evaluation\.groups: the column 'site' says nothing of"):
        assert Pipeline(config).indexed
