import json
import re
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import load_config, parse_config
from flows.reporting.sections.failures import failures
from flows.reporting.sections.neighbours import neighbours
from flows.stages.pipeline import Pipeline
from flows.stages.report import gather, write_report
from flows.stages.results import REPORT
from flows.stages.stored import stored_run
from tests.photos import photo
from tests.runs import small_run, write_config
from tintem_core.errors import InputError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run that is done; the tests leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "photos").mkdir()
    rows = ["path,label,site"]
    for number in range(60):
        photo(number).save(folder / f"photos/{number}.png")
        label, site = ("disc", "plain")[number % 2], ("attic", "cellar <2>")[number // 2 % 2]
        rows.append(f"photos/{number}.png,{label},{site}")
    (folder / "photos.csv").write_text("\n".join(rows))
    settings = small_run(folder, folder / "photos.csv")
    settings["data"]["test_share"] = 0.5
    settings["evaluation"]["groups"] = ["site"]
    config = write_config(folder, settings)
    assert Pipeline(load_config(config)).exported
    return config


def written(run: Pipeline) -> str:
    write_report(run.finished, run.exported.record)
    return (Path(run.exported.location) / REPORT).read_text()


def words(page: str) -> str:
    """Return what a reader reads."""
    return re.sub(r"\s+", " ", re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]+>", " ", page,
                                      flags=re.DOTALL))  # fmt: skip


def test_a_report_is_made_again_from_what_is_stored_and_leaves_the_export_whole(
    finished: Path,
) -> None:
    run = stored_run(load_config(finished))
    page = Path(run.exported.location) / REPORT
    as_exported = page.read_text()
    page.unlink()
    # Bokeh numbers what it draws anew each time.
    assert words(written(run)) == words(as_exported)
    assert REPORT not in run.exported.record["files"]
    assert stored_run(load_config(finished)).exported.id == run.exported.id


def test_a_report_of_an_older_release_is_replaced_without_withdrawing_the_export(
    finished: Path,
) -> None:
    run = stored_run(load_config(finished))
    folder = Path(run.exported.location)
    record = json.loads((folder / "record.json").read_text())
    del record["check"]
    record["files"][REPORT] = {"bytes": 8, "sha256": "of then"}
    (folder / "record.json").write_text(json.dumps(record))
    (folder / REPORT).write_text("of then.")
    run = stored_run(load_config(finished))
    assert "Is it faithful?" in written(run)
    assert stored_run(load_config(finished)).exported.id == run.exported.id


def test_every_question_is_answered_with_the_numbers_of_the_evaluation(finished: Path) -> None:
    run = stored_run(load_config(finished))
    said = words(written(run))
    metrics = run.evaluated.record["metrics"]
    for question in (
        "Is it faithful?", "Does it find the same photos?", "stand in for the teacher",
        "what it does not know?", "Where does it fail?", "What does it cost?", "How was it made?",
    ):  # fmt: skip
        assert question in said
    explained = metrics["student/test/r2_to_mapped"]
    # The student of so short a training is worse than the mean of the targets.
    assert explained < 0
    assert f"nothing of what the teacher says through the mapping: R² is {explained:.2f}" in said
    first = metrics["student/test/same_photo_at_1"]
    assert f"comes first in {first:.0%} of the queries" in said
    assert "photos of another kind, because the config names none" in said
    # Every row is on the page, whatever it is called.
    for row in run.evaluated.record["rows"]:
        assert f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in said


def test_a_measure_that_no_section_knows_stands_among_every_number(finished: Path) -> None:
    run = stored_run(load_config(finished))
    row = {**run.evaluated.record["rows"][0], "name": "brand_new", "value": 0.12345}
    run.evaluated.record["rows"].append(row)
    assert "brand_new" in words(written(run))


def test_the_worst_group_is_named_with_its_number_and_that_of_all(finished: Path) -> None:
    run = stored_run(load_config(finished))
    worst, best = failures(gather(run.finished, run.exported.record)).groups[0].rows
    assert worst["knn"] <= best["knn"]
    said = words(written(run))
    overall = run.evaluated.record["metrics"]["student/test/knn"]
    name = worst["value"].replace("<", "&lt;").replace(">", "&gt;")
    assert "By site, the worst first" in said
    low, high = worst["knn_interval"]
    assert 0 <= low <= worst["knn"] <= high <= 1
    assert (
        f"By site, the student is least accurate for {name}: {worst['knn']:.0%} "
        f"[{low:.0%}, {high:.0%}] of {worst['n']} "
        f"photos right (the teacher {worst['teacher_knn']:.0%}), of all photos {overall:.0%}."
    ) in said


def test_groups_are_told_as_they_were_where_the_table_is_gone(finished: Path) -> None:
    run = stored_run(load_config(finished))
    table = finished.with_name("photos.csv")
    aside = table.rename(table.with_name("aside.csv"))
    try:
        again = stored_run(load_config(finished))
        assert again.evaluated.id == run.evaluated.id
        assert "By site, the worst first" in words(written(again))
    finally:
        aside.rename(table)
    other = load_config(finished)
    evaluation = other.evaluation.model_copy(update={"groups": ("label",)})
    with pytest.raises(InputError, match=r"no evaluation of .* by label \(evaluation\.groups\)"):
        stored_run(other.model_copy(update={"evaluation": evaluation}))


def test_photos_that_are_gone_leave_their_places_empty(finished: Path) -> None:
    run = stored_run(load_config(finished))
    assert "not there any more" not in written(run)
    photos = finished.with_name("photos")
    aside = photos.rename(photos.with_name("aside"))
    try:
        assert "not there any more" in written(run)
    finally:
        aside.rename(photos)


@pytest.mark.slow
def test_an_objective_without_a_shared_space_is_said_to_have_none(
    settings: dict[str, Any],
) -> None:
    settings["training"]["objective"] = "supervised"
    run = Pipeline(parse_config(settings, "test"))
    said = words((Path(run.exported.location) / REPORT).read_text())
    assert "Not measured: queries to the teacher&#39;s index, because the objective" in said
    assert "nan" not in said.lower().split()


def test_the_neighbours_shown_are_those_of_the_embeddings(finished: Path) -> None:
    run = stored_run(load_config(finished))
    evidence = gather(run.finished, run.exported.record)
    found = neighbours(evidence).queries
    assert [query.shared for query in found] == sorted(query.shared for query in found)
    for query in found:
        for side in (query.teacher, query.student):
            assert query.picture not in [one.picture for one in side]
            assert [one.cosine for one in side] == sorted((o.cosine for o in side), reverse=True)
        both = {o.picture.name for o in query.teacher} & {o.picture.name for o in query.student}
        assert len(both) == query.shared
        assert {o.picture.name for o in query.teacher if o.is_shared} == both


def test_a_run_that_is_not_finished_has_no_report(settings: dict[str, Any], tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, settings))
    with pytest.raises(InputError, match="knows no photos of shapes: `tintem run"):
        stored_run(config)
    assert Pipeline(config).mapped
    with pytest.raises(InputError, match=r"holds no students/test-resnet-shapes-.*`tintem run"):
        stored_run(config)
