"""What gates, thresholds and drift come to, and how it is said."""

from typing import Any

import numpy as np
import pytest

from flows.config.retraining import GateConfig, NightlyConfig
from flows.retraining.decision import drifted, headline
from flows.retraining.gates import is_open, judge
from flows.retraining.pictures import DriftView, Example, contact_sheet
from flows.retraining.report import retraining_page
from tests.photos import encoded, photo
from tintem_core.evaluation.drift import Drift, measure_drift


def gate(**limits: float) -> GateConfig:
    return GateConfig(metric="student/test/knn", **limits)


@pytest.mark.parametrize(
    ("limits", "value", "latest", "passed"),
    [
        ({"minimum": 0.8}, 0.8, None, [True]),
        ({"minimum": 0.8}, 0.79, None, [False]),
        ({"maximum": 0.1}, 0.1, None, [True]),
        ({"maximum": 0.1}, 0.2, None, [False]),
        ({"may_fall": 0.02}, 0.75, 0.76, [True]),
        ({"may_fall": 0.02}, 0.70, 0.76, [False]),
        ({"may_fall": 0.0}, 0.76, 0.76, [True]),
        ({"may_rise": 0.02}, 0.70, 0.76, [True]),
        ({"may_rise": 0.02}, 0.79, 0.76, [False]),
        ({"minimum": 0.8, "may_fall": 0.1}, 0.75, 0.76, [False, True]),
        ({"may_fall": 0.02}, 0.1, None, [None]),
        ({"minimum": 0.8}, float("nan"), None, [False]),
        ({"may_fall": 0.8}, float("nan"), 0.5, [False]),
    ],
)
def test_a_gate_is_as_open_as_its_limits(
    limits: dict[str, float], value: float, latest: float | None, passed: list[bool | None]
) -> None:
    before = None if latest is None else {"student/test/knn": latest}
    verdicts = judge([gate(**limits)], {"student/test/knn": value}, before, "no latest")
    assert [verdict.passed for verdict in verdicts] == passed
    assert is_open(verdicts) == (False not in passed)


def test_what_was_not_measured_is_a_closed_gate() -> None:
    (verdict,) = judge([gate(may_fall=1.0)], {}, {"student/test/knn": 0.5}, "")
    assert verdict.passed is False
    assert verdict.why == "student/test/knn was not measured"
    (verdict,) = judge([gate(may_fall=1.0)], {"student/test/knn": 0.5}, {}, "")
    assert verdict.passed is None
    assert verdict.why == "it was not measured of the latest"


def test_a_closed_gate_says_by_how_much() -> None:
    (verdict,) = judge(
        [gate(may_fall=0.02)], {"student/test/knn": 0.7}, {"student/test/knn": 0.76}, ""
    )
    assert verdict.why == (
        "student/test/knn is 0.7, 0.06 below the latest's 0.76; it may fall by 0.02"
    )


def drift(strange: int, new: int) -> Drift:
    known = np.linspace(0.5, 1, 99)
    scores = np.concatenate([np.zeros(strange), np.ones(new - strange)])
    return measure_drift(known, scores, seed=0, resamples=100)


@pytest.mark.parametrize(
    ("strange", "new", "is_enough", "said"),
    [
        (1, 1, False, "1 of 1 new photo is strange (100%), but photos without drift give as many "
            "with probability 0.05, above 0.01"),
        (3, 3, True, "3 of 3 new photos are strange (100%), 20% is enough; photos without drift"),
        (1, 100, False, "1 of 100 new photos is strange (1%), drift starts at 20%"),
        (30, 100, True, "30 of 100 new photos are strange (30%), 20% is enough"),
    ],
)  # fmt: skip
def test_few_strange_photos_do_not_train_by_chance(
    strange: int, new: int, is_enough: bool, said: str
) -> None:
    found, sentence = drifted(NightlyConfig(), drift(strange, new))
    assert found is is_enough
    assert sentence.startswith(said)


def test_a_night_is_called_by_what_matters_most() -> None:
    assert headline(["nothing new", "waiting", "kept", "promoted"]) == "promoted"
    assert headline(["promoted", "failed"]) == "failed"
    assert headline(["waiting", "nothing new"]) == "waiting"


def line(**values: Any) -> dict[str, Any]:
    news = dict.fromkeys(("new", "new_train", "new_test", "known", "decided", "gone"), 1)
    return {
        "name": "<tiny>", "outcome": "waiting", "says": "<tiny> waits", "latest": None,
        "news": {**news, "growth": None}, "trigger": {"reasons": [], "otherwise": []},
        "mapping": {}, "warm_start": {}, "gates": [], "metrics": {}, "latest_metrics": {},
        **values,
    }  # fmt: skip


def test_names_of_photos_and_students_are_text_on_the_page_never_markup() -> None:
    shown = Example(
        uri="/x/<script>alert('1')</script>.png", split="train", score=0.5, is_strange=True,
        picture=encoded(photo(0), "JPEG"), nearest_uri="/y/'onload=x.png", nearest_picture=None,
    )  # fmt: skip
    scores = np.array([0.5], np.float32)
    found = DriftView(("<tiny>",), {"unknown": "too <few>"}, scores, scores, [shown])
    record = {
        "outcome": "waiting", "says": "<tiny> waits", "lines": {"tiny": line()},
        "data": {"name": "<cells>", "train": 9, "test": 3, "unreadable": 0},
        "provenance": {"created": "2026-11-22"},
    }  # fmt: skip
    page = retraining_page("cells-0", record, [found])
    assert "<script" not in page
    assert "<tiny>" not in page
    assert "<cells>" not in page
    assert "too &lt;few&gt;" in page
    assert "'onload" not in page
    assert "not there any more" in page
    assert page.count("<img") == 2
    assert all('alt="' in tag.split(">")[0] for tag in page.split("<img")[1:])


def test_a_sheet_of_no_photos_is_none() -> None:
    gone = Example("u", "train", 0.5, False, None, "n", None)
    assert contact_sheet([]) is None
    assert contact_sheet([gone]) is None
