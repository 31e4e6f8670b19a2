"""One change of one file."""

from dataclasses import dataclass
from pathlib import Path


class MutationError(Exception):
    """A mutation that cannot be applied, or tests that say nothing about it."""


@dataclass(frozen=True)
class Mutation:
    """A change that makes results wrong or loses a safety.

    name: of one word, hyphens between. file: below the repository. original: text that the file
    holds exactly once; replacement: what comes in its place. breaks: what would be wrong then.
    tests: files of quick tests of which one fails, or file::test
    where the others of the file take long. survives: why no quick test can notice it;
    empty where one does.
    """

    name: str
    file: str
    original: str
    replacement: str
    breaks: str
    tests: tuple[str, ...]
    survives: str = ""

    def problem(self, root: Path) -> str | None:
        """Say why this cannot be applied to the tree below a folder; None if it can."""
        path = root / self.file
        if not path.is_file():
            return f"{self.name}: there is no file {self.file}; name the one that it became."
        count = path.read_text().count(self.original)
        if count != 1:
            return (
                f"{self.name}: {self.file} holds '{self.original}' {count} times, not once; "
                "write down what it is now."
            )
        absent = [test for test in self.tests if not _is_there(root, test)]
        if absent or not self.tests:
            return f"{self.name}: there is no test {', '.join(absent)}; name one that is."
        return None

    def applied(self, text: str) -> str:
        """The text of the file with the change."""
        return text.replace(self.original, self.replacement)


def _is_there(root: Path, test: str) -> bool:
    file, _, name = test.partition("::")
    path = root / file
    return path.is_file() and (not name or f"def {name}(" in path.read_text())
