"""A copy of the tree in which one file at a time is changed, and tests run beside it."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path
from typing import Literal

from tests.mutations.forked import run_tests
from tests.mutations.mutation import Mutation, MutationError

_BROKEN = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)
_WHOLE_SECONDS = 3600.0

Verdict = Literal["caught", "survived", "broken"]


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation.

    verdict: broken where no test could run, as the change is none of behaviour. by: the first test
    that failed, or what happened instead.
    """

    verdict: Verdict
    by: str
    seconds: float


def copy_tree(root: Path, folder: Path) -> None:
    """Copy what git knows of a checkout, and what it does not ignore.

    Raises:
        MutationError: if this is no checkout.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode:
        raise MutationError(f"{root} is no checkout that git can list: {listed.stderr.strip()}")
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, folder / name)


@contextlib.contextmanager
def changed(tree: Path, mutation: Mutation) -> Iterator[None]:
    """Apply a mutation while the block lasts."""
    path = tree / mutation.file
    before = path.read_text()
    # Python believes compiled code of the same second and size.
    compiled = Path(cache_from_source(str(path)))
    try:
        path.write_text(mutation.applied(before))
        compiled.unlink(missing_ok=True)
        yield
    finally:
        path.write_text(before)
        compiled.unlink(missing_ok=True)


def require_whole(tree: Path, tests: Sequence[str]) -> float:
    """Make sure that tests pass on an unchanged copy, and see it; return the seconds they take.

    Raises:
        MutationError: if they do not.
    """
    done = run_tests(tests, tree, _WHOLE_SECONDS)
    if done.code:
        failed = ", ".join(_BROKEN.findall(done.output)) or done.output[-2000:]
        raise MutationError(f"Before any change these tests do not pass: {failed}")
    return done.seconds


def attempt(tree: Path, mutation: Mutation, limit: float) -> Outcome:
    """Run the tests of a mutation, up to the first that fails.

    Args:
        limit: seconds; a run that takes longer hangs, which is noticed too.
    """
    with changed(tree, mutation):
        done = run_tests(mutation.tests, tree, limit)
    failed = _BROKEN.findall(done.output)
    if done.code is None:
        return Outcome("caught", f"hung for {limit:.0f} s", done.seconds)
    if done.code < 0:
        return Outcome("caught", f"the process died of {done.code}", done.seconds)
    if done.code == 0:
        return Outcome("survived", "", done.seconds)
    if done.code == 1 and failed:
        return Outcome("caught", failed[0], done.seconds)
    return Outcome("broken", ", ".join(failed) or done.output[-500:], done.seconds)
