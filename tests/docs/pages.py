"""The pages of the documentation: their fenced blocks, and the commands in them."""

import hashlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_JOINS = {"&&", "||", "|", ";", "&"}


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    page: str
    language: str
    text: str

    @property
    def begins(self) -> str:
        """Its first line without comments, by which it is told from the others of its page."""
        return next(
            (line for line in self.text.splitlines() if not line.startswith("#")), self.text
        )

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page, in its order."""
    return [Block(page, language, text) for language, text in _FENCED.findall(read(page))]


def prose(page: str) -> str:
    """A page without its blocks."""
    return _FENCED.sub("", read(page))


def commands(text: str) -> Iterator[list[str]]:
    """Every call in lines of a shell, as words; comments and variables before it are left out."""
    for line in text.replace("\\\n", " ").splitlines():
        inner = re.findall(r"\$\(([^()]*)\)", line)
        for part in (*inner, re.sub(r"\$\([^()]*\)", "…", line)):
            lexer = shlex.shlex(part, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            yield from _calls(list(lexer))


def _calls(words: list[str]) -> Iterator[list[str]]:
    call: list[str] = []
    is_over = False
    for word in (*words, ";"):
        if word in _JOINS:
            if call:
                yield call
            call, is_over = [], False
        # What follows names a file for the output.
        elif is_over or word in (">", ">>"):
            is_over = True
        elif call or not re.match(r"[A-Z_]+=", word):
            call.append(word)


def own_commands(text: str) -> Iterator[list[str]]:
    """The arguments of every call of `tintem` in lines of a shell."""
    for words in commands(text):
        if Path(words[0]).name == "tintem":
            yield words[1:]
