import json
import re
from pathlib import Path
from typing import Any

import pytest

from flows.config.load import load_config, parse_config
from flows.reporting.sections.neighbours import neighbours
from flows.stages.pipeline import Pipeline
from flows.stages.report import REPORT, gather, write_report
from flows.stages.stored import stored_run
from tests.photos import photo
from tests.runs import small_run, write_config
from tintem_core.errors import InputError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a run that is done; the tests leave it as it is."""
    folder = tmp_path_factory.mktemp("finished")
    for number in range(48):
        place = folder / "photos" / ("disc", "plain")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        photo(number).save(place / f"{number}.png")
    config = write_config(folder, small_run(folder, folder / "photos"))
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


def test_photos_that_are_gone_leave_their_places_empty(finished: Path) -> None:
    run = stored_run(load_config(finished))
    assert "not there any more" not in written(run)
    photos = Path(run.config.data.uri)
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
