"""Every block of the documentation is run by a test, or it is known why not."""

import ast
from functools import cache

import pytest

from tests.docs.ledger import LEDGER, Known, known_blocks
from tests.docs.pages import PAGES, ROOT, Block, blocks

EVERY = known_blocks()


@pytest.mark.parametrize(
    ("block", "known"), EVERY, ids=[f"{block.page}: {block.begins[:40]}" for block, _ in EVERY]
)
def test_a_block_is_run_or_it_is_known_why_not(block: Block, known: Known | None) -> None:
    assert known is not None, (
        f"{block.page} has a new block, or one with another first line, {block.begins!r}: write in "
        "tests/docs/ledger.py which test runs it, or why none can."
    )
    assert known.by or known.reason
    if known.reason:
        assert known.digest == block.digest, (
            f"the block of {block.page} that begins with {known.begins!r} has changed, and no test "
            f"runs it: look at it again, and write {block.digest!r} in tests/docs/ledger.py."
        )
    if block.language == "python":
        compile(block.text, block.page, "exec")


def test_nothing_is_known_of_what_is_not_there() -> None:
    assert set(LEDGER) <= set(PAGES)
    found = [(block.page, known.begins) for block, known in EVERY if known]
    listed = [(page, known.begins) for page, those in LEDGER.items() for known in those]
    assert sorted(found) == sorted(listed)


def test_languages_are_those_that_are_looked_at() -> None:
    languages = {block.language for page in PAGES for block in blocks(page)}
    assert languages <= {"", "python", "yaml", "ini"}


@cache
def _functions(file: str) -> dict[str, str]:
    """Tests of a file, and its whole text."""
    text = (ROOT / file).read_text(encoding="utf-8")
    tests = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    return dict.fromkeys(tests, text)


@pytest.mark.parametrize("test", sorted({test for _, known in EVERY if known for test in known.by}))
def test_a_test_that_is_named_is_there(test: str) -> None:
    file, name = test.split("::")
    assert name in _functions(file)


@pytest.mark.parametrize(
    ("block", "known"),
    [(block, known) for block, known in EVERY if known and not known.reason],
    ids=lambda value: value.page if isinstance(value, Block) else "",
)
def test_a_test_that_runs_a_block_reads_the_page(block: Block, known: Known) -> None:
    page = block.page.removeprefix("docs/")
    for test in known.by:
        file, name = test.split("::")
        text = _functions(file)[name]
        assert page in text or "run_by(" in text
