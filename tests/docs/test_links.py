"""Pages refer to files, pages and headings that are there; the index refers to every page."""

import re

import pytest

from tests.docs.pages import PAGES, ROOT, prose, read

INDEX = "docs/README.md"
_OTHERS = ("CONTRIBUTING.md",)


def links(page: str) -> list[str]:
    """What a page refers to within the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def headings(page: str) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    kept = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.replace(" ", "-") for title in kept}


LINKS = [(page, link) for page in (*PAGES, *_OTHERS) for link in links(page)]


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_link_leads_somewhere(page: str, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
    assert target.exists()
    if anchor:
        assert anchor in headings(str(target.relative_to(ROOT)))


def test_the_index_refers_to_every_page_and_the_readme_to_the_index() -> None:
    listed = {link.partition("#")[0] for link in links(INDEX)}
    assert {page.removeprefix("docs/") for page in PAGES[1:]} - {"README.md"} <= listed
    assert INDEX in links("README.md")


def test_the_pages_stand_in_the_order_of_need() -> None:
    order = (
        "Quickstart", "Your own photos", "Choosing teacher and student", "Reading the report",
        "Deploying a student", "Nights", "Sweeps", "cluster", "The cache's format", "The method",
        "Reliability", "Errors",
    )  # fmt: skip
    places = [read(INDEX).index(title) for title in order]
    assert places == sorted(places)
