"""What was found out about mutations so far, as JSON: a run that was stopped is not lost."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from storage.identity import digest
from tests.mutations.mutation import Mutation
from tests.mutations.trial import Verdict


@dataclass(frozen=True)
class Result:
    """What became of a mutation, and when.

    verdict: broken where no test could run, as the change is none of behaviour. by: the first test
    that failed, or what happened instead. change: a digest of the mutation as it was.
    """

    verdict: Verdict
    by: str
    seconds: float
    date: str
    change: str


def change_of(mutation: Mutation) -> str:
    """What identifies a mutation: an edited one is another."""
    return digest([mutation.file, mutation.original, mutation.replacement, *mutation.tests])[:12]


def load_results(path: Path, mutations: Iterable[Mutation]) -> dict[str, Result]:
    """The results of mutations that are still the same, by name; none where there is no file."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    found = {}
    for mutation in mutations:
        if mutation.name in stored:
            result = Result(**stored[mutation.name])
            if result.change == change_of(mutation):
                found[mutation.name] = result
    return found


def save_results(path: Path, results: dict[str, Result]) -> None:
    """Write results, one a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(asdict(r))}" for name, r in results.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
