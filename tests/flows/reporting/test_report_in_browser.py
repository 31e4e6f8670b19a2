"""The report of a real run, opened in a real browser."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from flows.config.load import load_config
from flows.stages.pipeline import Pipeline
from tests.browser import broken_pictures, chromium, is_wider_than_its_window, opened
from tests.runs import small_run, write_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def report(tmp_path: Path, photo_folder: Callable[..., Path]) -> Path:
    settings = small_run(tmp_path, photo_folder(48, classes=("disc", "plain")))
    strange = photo_folder(20, name="strange", first=500)
    settings["evaluation"]["ood"] = [{"name": "strange", "uri": str(strange)}]
    settings["training"]["select"] = "best"
    settings["training"]["validation_share"] = 0.3
    run = Pipeline(load_config(write_config(tmp_path, settings)))
    return Path(run.exported.location) / "report.html"


def test_a_report_reads_on_phone_tablet_and_desk_by_day_and_by_night(
    report: Path, browser: Browser
) -> None:
    assert report.stat().st_size < 6e6
    papers = {}
    for scheme in ("light", "dark"):
        for width in (390, 768, 1280):
            with opened(browser, report, width, scheme) as (tab, wrong):
                assert wrong == []
                assert not is_wider_than_its_window(tab)
                assert broken_pictures(tab) == 0
                assert len(tab.query_selector_all(".plot")) == 7
                papers[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert papers["light"] != papers["dark"]


def test_a_point_of_the_map_shows_its_photo_and_selects_it_on_the_other_side(
    report: Path, browser: Browser
) -> None:
    with opened(browser, report, 1280) as (tab, wrong):
        teacher, student = tab.query_selector_all("#embedding_map .plot")
        teacher.scroll_into_view_if_needed()
        place = tab.evaluate(
            """place => {
              const view = Object.values(Bokeh.index.roots ?? Bokeh.index)
                .find(view => place.contains(view.el));
              const {tx, ty} = view.model.renderers[0].data_source.data;
              const box = view.canvas_view.el.getBoundingClientRect();
              const frame = view.frame;
              return [box.x + frame.x_scale.compute(tx[0]), box.y + frame.y_scale.compute(ty[0])];
            }""",
            teacher,
        )
        tab.mouse.move(*place)
        shown = tab.wait_for_selector(".bk-Tooltip img", timeout=5_000)
        assert shown is not None
        assert shown.evaluate("img => img.naturalWidth") == 96
        tab.mouse.click(*place)
        selected = student.evaluate(
            """place => Object.values(Bokeh.index.roots ?? Bokeh.index)
              .find(view => place.contains(view.el))
              .model.renderers[0].data_source.selected.indices.length"""
        )
        assert selected >= 1
        assert wrong == []
