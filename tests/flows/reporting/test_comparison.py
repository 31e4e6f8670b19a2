"""Two students side by side: differences with intervals over the same photos."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.cli.commands import app
from flows.cli.report import evidence_of
from flows.config.load import load_config
from flows.reporting.comparison import comparison_page, differences, exchanges
from flows.reporting.evidence import SeenSet
from flows.stages.pipeline import Pipeline
from tests.photos import photo
from tests.runs import small_run, write_config
from tintem_core.errors import InputError
from tintem_core.evaluation.bootstrap import mean_row
from tintem_core.evaluation.cosine import row_cosines


def seen(noise: float, seed: int = 1) -> SeenSet:
    """A student that misses its targets by some noise."""
    rng = np.random.default_rng(0)
    teacher, asked = (rng.normal(size=(200, width)).astype(np.float32) for width in (24, 8))
    missed = np.random.default_rng(seed).normal(size=asked.shape).astype(np.float32)
    answer = asked + noise * missed
    return SeenSet("test", 200, np.arange(200), [None] * 200, teacher, answer, asked, answer)


def test_the_better_student_is_told_with_an_interval_that_excludes_none() -> None:
    for found in list(differences(seen(0.9), seen(0.3)))[:3]:
        assert 0 < found.low < found.value < found.high
        assert found.verdict(["a", "b"]) == "b is better"
    for found in list(differences(seen(0.3), seen(0.9)))[:3]:
        assert found.verdict(["a", "b"]) == "a is better"


def test_a_student_is_not_told_apart_from_itself() -> None:
    for found in differences(seen(0.5), seen(0.5)):
        assert (found.value, found.low, found.high) == (0, 0, 0)
        assert found.verdict(["a", "b"]) == "not told apart"


def test_photos_that_both_find_hard_do_not_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    usual = seen(0.0)
    assert usual.asked is not None
    hard = rng.uniform(0.1, 3.0, 200)[:, None]
    noise = (rng.normal(size=usual.asked.shape) * hard).astype(np.float32)
    first, second = (replace(usual, answer=usual.asked + share * noise) for share in (1.0, 0.9))
    assert first.answer is not None
    paired = list(differences(first, second))[1]
    alone = mean_row("cosine", row_cosines(usual.asked, first.answer), seed=0)
    assert paired.high - paired.low < 0.3 * (alone.high - alone.low)


def test_the_index_of_one_student_is_asked_by_the_other() -> None:
    first, second = seen(0.1, seed=1), seen(2.0, seed=2)
    found = exchanges(["good", "poor"], first, second)
    assert [(each.asks, each.index) for each in found] == [
        ("good", "poor"), ("good", "the teacher"), ("poor", "good"), ("poor", "the teacher")
    ]  # fmt: skip
    best = [each.rows[0].value for each in found]
    assert found[0].rows[0].name == "same_photo_at_1"
    assert best[1] > 0.9
    # Both an index that is poor and a question that is poor find less; chance is 1 in 200.
    assert all(0.02 < value < 0.7 for value in (best[0], best[2], best[3]))
    assert found[0].value("same_photo_at_1") == (
        f"{best[0]:.3f} [{found[0].rows[0].low:.3f}, {found[0].rows[0].high:.3f}]"
    )


def test_labels_are_voted_on_across_the_indexes() -> None:
    first, second = seen(0.1, seed=1), seen(0.1, seed=2)
    assert first.asked is not None
    # A label that the space itself tells, and some photos without one.
    labels = [None if i % 5 == 0 else str(row[0] > 0) for i, row in enumerate(first.asked)]
    found = exchanges(["a", "b"], replace(first, labels=labels), replace(second, labels=labels))
    for each in found:
        row = each.rows[-1]
        assert (row.name, row.n) == ("shared_knn", 160)
        assert 0.5 <= (row.chance or 0) < 0.65
        assert row.value > 0.75


def test_students_of_other_spaces_have_no_index_in_common() -> None:
    usual = seen(0.1)
    assert usual.asked is not None
    assert exchanges(["a", "b"], usual, replace(usual, asked=usual.asked[:, ::-1])) == []
    assert exchanges(["a", "b"], usual, replace(usual, asked=None, answer=None)) == []


@pytest.mark.slow
def test_two_runs_are_compared_on_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        place = tmp_path / "photos" / ("disc", "plain")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        photo(number).save(place / f"{number}.png")
    settings = small_run(tmp_path, tmp_path / "photos")
    metrics = []
    for name, epochs in (("short", 1), ("long", 3)):
        settings["training"]["epochs"] = epochs
        config = load_config(write_config(tmp_path, settings, f"{name}.yaml"))
        run = Pipeline(config)
        assert run.exported
        metrics.append(run.evaluated.record["metrics"]["student/test/cosine_to_mapped"])
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["report", "short.yaml", "long.yaml"], catch_exceptions=False)
    assert done.exit_code == 0
    page = (tmp_path / "comparison.html").read_text()
    assert "cosine to the mapped teacher" in page
    assert '<th scope="row">short</th><td>long</td>' in page
    for value in metrics:
        assert f"<td>{value:.3f}</td>" in page
    assert f"{metrics[1] - metrics[0]:+.3f} [" in page
    # By their ids, as two students of one sweep are.
    ids = [evidence_of(Path(f"{name}.yaml")).export["student"] for name in ("short", "long")]
    done = CliRunner().invoke(app, ["report", "long.yaml", *ids], catch_exceptions=False)
    assert done.exit_code == 0
    by_id = (tmp_path / "comparison.html").read_text()
    assert f"{metrics[1] - metrics[0]:+.3f} [" in by_id
    assert f"<title>{ids[0]} and {ids[1]}" in by_id
    with pytest.raises(InputError, match="the student nobody is not there"):
        CliRunner().invoke(app, ["report", "long.yaml", "nobody"], catch_exceptions=False)
    evidence = evidence_of(Path("short.yaml"))
    spec = {**evidence.evaluation["spec"], "images": {"shapes": "others"}}
    other = replace(evidence, evaluation={**evidence.evaluation, "spec": spec})
    with pytest.raises(InputError, match="short and other were measured on other photos"):
        comparison_page(["short", "other"], evidence, other)
