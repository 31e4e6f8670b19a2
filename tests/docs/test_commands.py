"""Every call of `tintem` that the documentation shows is one that the command line takes."""

import re

import pytest

from tests.docs.calls import UsageError, is_incomplete, parse
from tests.docs.ledger import known_blocks
from tests.docs.pages import PAGES, own_commands, prose


def _told(value: object) -> str:
    return " ".join(value)[:60] if isinstance(value, list) else str(value)


SHOWN = [
    (block.page, call)
    for block, known in known_blocks()
    if block.language == "" and known is not None and not known.is_output
    for call in own_commands(block.text)
]


@pytest.mark.parametrize(("page", "call"), SHOWN, ids=_told)
def test_a_call_in_a_block_is_one_that_the_command_line_takes(page: str, call: list[str]) -> None:
    parse(call)


NAMED = [
    (page, call)
    for page in PAGES
    for span in re.findall(r"`(tintem [^`]+)`", prose(page))
    for call in own_commands(" ".join(span.split()))
]


@pytest.mark.parametrize(("page", "call"), NAMED, ids=_told)
def test_a_call_within_a_sentence_names_what_there_is(page: str, call: list[str]) -> None:
    try:
        parse(call)
    except UsageError as error:
        # A sentence may name a command without what it is given.
        if not is_incomplete(error):
            raise


@pytest.mark.parametrize(
    "call", [["runs"], ["run", "tintem.yaml", "--fast"], ["run"], ["gc", "--keep", "x", "root"]]
)
def test_a_call_that_nobody_takes_is_refused(call: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(call)
