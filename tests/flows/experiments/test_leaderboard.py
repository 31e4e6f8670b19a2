"""The ranking of students: read from records alone, and never across what does not compare."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows.cli.commands import app
from flows.experiments.leaderboard import leaderboard
from flows.experiments.plot import draw, plot
from flows.experiments.record import Entry, files_of, sweep_id, write_sweep
from flows.experiments.standings import Group, Leaderboard
from flows.experiments.table import artifact_rows, footnotes, tables
from storage.artifacts import write_artifact
from storage.root import Root, open_root
from tintem_core.errors import InputError

METRIC = "student/test/pairwise_pearson"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return open_root(tmp_path / "root")


def add(
    root: Root,
    id: str,
    value: float,
    *,
    photos: str = "p",
    teacher: str = "t",
    parameters: int = 10**6,
    export: bool = True,
    **training: Any,
) -> None:
    """Write the records that a student's training, evaluation and export leave."""
    spec = {"student": {"model": "net"}, "training": {"seed": 0, **training}, "mapping": "m"}
    write_artifact(root, "students", id, {}, {"spec": spec, "parameters": parameters})
    asked = {
        "student": id,
        "caches": [{"cells": f"{teacher}-cells", "odd": f"{teacher}-odd"}],
        "images": {"cells": photos, "odd": "o"},
        "settings": {"knn": 10, "ood_neighbour": 1, "resamples": 100},
    }
    rows = [
        row("student", "test", "pairwise_pearson", value),
        row("student", "test", "knn", value - 0.1),
        row("teacher", "test", "knn", 0.95),
        row("student", "odd", "auroc", value + 0.05),
        row("student", "odd", "fpr95", 1 - value),
    ]
    metrics = {"/".join((r["subject"], r["dataset"], r["name"])): r["value"] for r in rows}
    evaluation = f"e-{id}-{photos}-{teacher}"
    record = {"spec": asked, "metrics": metrics, "rows": rows, "test_photos": 30}
    write_artifact(root, "evaluations", evaluation, {}, record)
    if export:
        record = {
            "spec": {"student": id, "evaluation": evaluation},
            "model": {"bytes": 4 * parameters},
            "latency_ms": {"student_onnx": 1.5},
            "teacher_parameters": 3 * 10**6,
            "provenance": {"machine": "x86_64", "cores": 2, "gpu": None},
        }
        write_artifact(root, "exports", f"x-{id}", {}, record)


def row(subject: str, dataset: str, name: str, value: float) -> dict[str, Any]:
    found = {"subject": subject, "dataset": dataset, "name": name, "value": value, "n": 30}
    return {**found, "low": value - 0.1, "high": value + 0.1}


def shown(found: Leaderboard) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(*tables(found), *footnotes(found))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_students_are_ranked_by_the_metric_asked_for(root: Root) -> None:
    for id, value in (("b", 0.7), ("a", 0.8), ("c", 0.6)):
        add(root, id, value)
    (group,) = leaderboard(root).groups
    assert group.table["student"].to_list() == ["a", "b", "c"]
    assert group.table["rank"].to_list() == [1, 2, 3]
    first = group.table.row(0, named=True)
    assert (first["value"], first["low"], first["high"]) == pytest.approx((0.8, 0.7, 0.9))
    assert first["knn"] == pytest.approx(0.7)
    assert first["auroc/odd"] == pytest.approx(0.85)
    assert (first["status"], first["onnx_bytes"], first["latency_ms"]) == ("done", 4 * 10**6, 1.5)
    # Of a false-positive rate, less is better.
    (group,) = leaderboard(root, "student/odd/fpr95").groups
    assert group.table["student"].to_list() == ["a", "b", "c"]
    assert group.table["value"].to_list() == pytest.approx([0.2, 0.3, 0.4])


@pytest.mark.parametrize("other", [{"photos": "others"}, {"teacher": "another"}])
def test_other_photos_or_teachers_have_a_table_of_their_own(
    root: Root, other: dict[str, str]
) -> None:
    add(root, "a", 0.7)
    add(root, "b", 0.6)
    add(root, "c", 0.9, **other)  # type: ignore[arg-type]
    found = leaderboard(root)
    assert [group.table["student"].to_list() for group in found.groups] == [["a", "b"], ["c"]]
    assert [group.table["rank"].to_list() for group in found.groups] == [[1, 2], [1]]
    assert "Numbers compare within a table only" in shown(found)


def test_the_teacher_is_measured_where_it_can_be_and_agrees_with_itself_elsewhere(
    root: Root,
) -> None:
    add(root, "a", 0.7)
    teacher = leaderboard(root).groups[0].teacher
    assert (teacher.value, teacher.measured, teacher.parameters) == (1.0, False, 3 * 10**6)
    teacher = leaderboard(root, "student/test/knn").groups[0].teacher
    assert (teacher.value, teacher.low, teacher.measured) == (0.95, pytest.approx(0.85), True)


def test_students_are_named_by_what_sets_them_apart(root: Root) -> None:
    add(root, "a", 0.7, objective="tintem", epochs=20)
    add(root, "b", 0.6, objective="proteus", epochs=20)
    add(root, "c", 0.5, objective="proteus", epochs=20, seed=1)
    (group,) = leaderboard(root).groups
    assert group.table["name"].to_list() == [
        "net, tintem, seed=0", "net, proteus, seed=0", "net, proteus, seed=1",
    ]  # fmt: skip
    variants = group.variants()
    assert variants["variant"].to_list() == ["net, tintem", "net, proteus"]
    assert variants["seeds"].to_list() == [1, 2]
    assert variants["mean"].to_list() == pytest.approx([0.7, 0.55])
    assert variants["deviation"].to_list() == [None, pytest.approx(0.05 * 2**0.5)]
    assert "over seeds" in shown(leaderboard(root))


def test_seeds_of_other_recipes_are_never_averaged_though_sweeps_call_them_the_same(
    root: Root,
) -> None:
    for epochs, value in ((20, 0.5), (40, 0.7)):
        entries = []
        for seed in (0, 1):
            id = f"e{epochs}-s{seed}"
            add(root, id, value + 0.02 * seed, epochs=epochs, seed=seed)
            entries.append(Entry(f"r, seed={seed}", "r", id))
        write_sweep(root, sweep_id("cells", entries), entries, 1, {})
    add(root, "e60-s2", 0.9, epochs=60, seed=2)
    entries = [Entry("r, seed=2", "r", "e60-s2")]
    write_sweep(root, sweep_id("cells", entries), entries, 1, {"a plot": b"..."})
    (group,) = leaderboard(root).groups
    assert group.table["name"].n_unique() == 5
    assert "r, seed=2" in group.table["name"]
    variants = group.variants()
    assert variants["variant"].str.starts_with("r (").all()
    assert variants["seeds"].to_list() == [1, 2, 2]
    assert variants["mean"].to_list() == pytest.approx([0.9, 0.71, 0.51])
    assert files_of(root, sweep_id("cells", entries)) == {"a plot": b"..."}


def test_a_sweep_gives_its_names_and_tells_what_is_unfinished(root: Root) -> None:
    add(root, "a", 0.7)
    add(root, "b", 0.6, export=False)
    root.write("students/c/progress.json", b'{"step": 30, "total": 120}')
    entries = [
        Entry("first", "first", "a"),
        Entry("second", "second", "b", failed="ONNX disagrees"),
        Entry("third", "third", "c"),
        Entry("fourth", "fourth", "d", failed="the loss is nan"),
        Entry("fifth", "fifth", "e"),
    ]
    write_sweep(root, sweep_id("cells", entries), entries, 2, {})
    found = leaderboard(root)
    assert found.groups[0].table.select("name", "status").rows() == [
        ("first", "done"), ("second", "failed: ONNX disagrees"),
    ]  # fmt: skip
    assert [(thing["name"], thing["status"]) for thing in found.unfinished] == [
        ("third", "trained to 25%"),
        ("fourth", "failed: the loss is nan"),
        ("fifth", "not begun"),
    ]
    text = shown(found)
    for wanted in ("first", "trained to 25%", "ONNX disagrees", "measured while other students"):
        assert wanted in text
    only = leaderboard(root, METRIC, ["a"])
    assert only.groups[0].table["student"].to_list() == ["a"]
    assert only.unfinished == ()


def test_an_older_evaluation_of_the_same_questions_counts_no_more(root: Root) -> None:
    add(root, "a", 0.7)
    record = json.loads(root.read("evaluations/e-a-p-t/record.json"))
    # Of a release whose records carried none.
    del record["check"]
    record["created"] = "2000-01-01T00:00:00+00:00"
    record["rows"][0]["value"] = 0.1
    root.write("evaluations/older/record.json", json.dumps({**record, "id": "older"}).encode())
    (group,) = leaderboard(root).groups
    assert group.table["value"].to_list() == [0.7]


def test_an_unknown_metric_is_answered_with_the_nearest_ones(root: Root) -> None:
    add(root, "a", 0.7)
    with pytest.raises(InputError, match="'pearson'; the nearest of 4 metrics are student/test/p"):
        leaderboard(root, "pearson")


def test_a_leaderboard_is_plain_json_and_the_command_prints_it(root: Root) -> None:
    add(root, "a", 0.7)
    done = CliRunner().invoke(app, ["leaderboard", root.url, "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(leaderboard(root).as_json()))
    (group,) = leaderboard(root).groups
    assert artifact_rows(group)[0]["pairwise_pearson"] == "0.700 [0.600, 0.800]"


@pytest.mark.parametrize(("students", "seeds"), [(3, 1), (4, 3), (40, 1)])
def test_a_plot_numbers_its_points_and_its_legend_alike(
    root: Root, students: int, seeds: int
) -> None:
    for number in range(students):
        # Sizes in steps, so that several students have the same one.
        size = 10**6 * (1 + number // 2)
        for seed in range(seeds):
            value = 0.6 + 0.01 * (number * 7 % 11) + 0.003 * seed
            add(root, f"{number}-{seed}", value, parameters=size, rate=number, seed=seed)
    (group,) = leaderboard(root).groups
    figure = draw(group)
    (legend,) = figure.legends
    *named, teacher = [text.get_text() for text in legend.get_texts()]
    variants = group.variants()["variant"]
    assert named == [f"{number}  {variant}" for number, variant in enumerate(variants, 1)]
    assert teacher.endswith("(teacher)")
    # In the same order as on the board: the best is 1.
    shown = Counter(text.get_text() for text in figure.axes[0].texts)
    assert shown == {str(number): seeds for number in range(1, students + 1)}
    figure.draw_without_rendering()
    # The legend stands beside the axes, never on them, and inside of the figure.
    box, axes = legend.get_window_extent(), figure.axes[0].get_window_extent()
    assert box.x0 >= axes.x1
    assert box.x1 <= figure.bbox.x1 + 1
    assert box.y0 >= -1
    assert box.y1 <= figure.bbox.y1 + 1


def test_a_plot_needs_neither_intervals_nor_a_teacher_of_known_size(root: Root) -> None:
    add(root, "a", 0.7, export=False)
    (group,) = leaderboard(root).groups
    bare = group.table.with_columns(low=None, high=None)
    without = Group(group.data, group.test_photos, group.metric, group.teacher, bare, {})
    assert group.teacher.parameters is None
    assert plot(without).startswith(b"\x89PNG")


def command(root: Root, *options: str) -> str:
    done = CliRunner().invoke(app, ["leaderboard", root.url, *options], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_pareto_front_is_those_that_none_of_as_few_parameters_beats(root: Root) -> None:
    for id, value, parameters in (
        ("small", 0.6, 1), ("large", 0.9, 3), ("beaten", 0.7, 3), ("middle", 0.8, 2),
        ("as-good", 0.8, 2), ("worse", 0.5, 2),
    ):  # fmt: skip
        add(root, id, value, parameters=parameters * 10**6)
    (group,) = leaderboard(root).groups
    front = dict(group.table.select("student", "front").iter_rows())
    assert {id for id, on in front.items() if on} == {"small", "middle", "as-good", "large"}
    # Of what is better when less, the lowest are the best.
    (group,) = leaderboard(root, "student/odd/fpr95").groups
    assert dict(group.table.select("student", "front").iter_rows()) == front


def test_the_smallest_student_that_is_good_enough_is_named(root: Root) -> None:
    for id, value, parameters in (("small", 0.6, 1), ("middle", 0.8, 2), ("large", 0.9, 3)):
        add(root, id, value, parameters=parameters * 10**6)
    said = command(root, "--smallest", "student/test/knn>=0.65", "--latency-ms", "5")
    assert "2.00 M parameters, 1.5 ms a photo" in said
    assert "(middle)" in said
    with pytest.raises(InputError, match=r"no student of .* has student/test/knn >= 0.95"):
        command(root, "--smallest", "student/test/knn>=0.95")
    with pytest.raises(InputError, match=r"no student of .* and latency_ms <= 1"):
        command(root, "--smallest", "student/test/knn>=0.1", "--latency-ms", "1")


def test_conditions_keep_students_with_the_ranks_they_have_among_all(root: Root) -> None:
    for id, value, parameters in (("small", 0.6, 1), ("middle", 0.8, 2), ("large", 0.9, 3)):
        add(root, id, value, parameters=parameters * 10**6)
    options = ("--where", "parameters<3e6", "--where", "student/odd/auroc>0.6", "--json")
    (group,) = json.loads(command(root, *options))["groups"]
    assert [(s["rank"], s["student"]) for s in group["students"]] == [(2, "middle"), (3, "small")]
    assert group["students"][0]["measures"]["student/odd/fpr95"] == pytest.approx(0.2)
    (group,) = json.loads(command(root, "--sort", "parameters", "--json"))["groups"]
    assert [s["student"] for s in group["students"]] == ["small", "middle", "large"]


def test_a_table_for_a_spreadsheet_has_every_measure(root: Root) -> None:
    add(root, "a", 0.75)
    add(root, "b", 0.5, export=False)
    table = pl.read_csv(io.StringIO(command(root, "--csv")))
    assert table["student"].to_list() == ["a", "b"]
    assert table["student/odd/fpr95"].to_list() == pytest.approx([0.25, 0.5])
    assert table["latency_ms"].to_list() == [1.5, None]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--where", "student/test/knn"), "'student/test/knn' is no condition: write a measure"),
        (("--where", "knn>=much"), "'knn>=much' is no condition"),
        (("--smallest", "student/test/knnn>=0.9"), "nearest are student/test/knn"),
        (("--sort", "beauty"), "sort by one of value, name, parameters"),
    ],
)
def test_what_cannot_be_asked_is_said(root: Root, options: tuple[str, ...], said: str) -> None:
    add(root, "a", 0.7)
    with pytest.raises(InputError, match=said):
        command(root, *options)
