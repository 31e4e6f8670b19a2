"""The sentences that docs/errors.md explains are those that TinTeM says."""

import ast
import itertools
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
SENTENCES = re.findall(r"^> (.*)$", PAGE, re.MULTILINE)


@cache
def _said() -> tuple[str, ...]:
    """Every text in the code, with … for what is filled in."""
    found = []
    for package in ("flows", "storage", "tintem_core", "tintem_pixels"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr | ast.Constant | ast.BinOp):
                    found.append(_text(node))
    return tuple(text for text in found if len(text) > 12)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else "…"
    return "…"


def test_the_page_has_the_sentences_and_their_explanations() -> None:
    assert len(SENTENCES) >= 20
    paragraphs = re.split(r"\n\n+", PAGE)
    explained = [
        after
        for before, after in itertools.pairwise(paragraphs)
        if before.startswith("> ") and not after.startswith(("#", ">"))
    ]
    # One speaks for itself: its cure is in it.
    assert len(explained) >= len(SENTENCES) - 1


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: sentence[:40])
def test_a_sentence_is_one_that_is_said(sentence: str) -> None:
    shown = ".*".join(map(re.escape, sentence.split("…")))
    assert any(re.search(shown, text, re.DOTALL) for text in _said()), sentence


def test_a_sentence_that_nobody_says_would_be_found() -> None:
    shown = re.escape("there is no config file …: `tintem init FOLDER` writes two.")
    assert not any(re.search(shown, text) for text in _said())
