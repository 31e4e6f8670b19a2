"""python -m tests.mutations [--only NAME ...] [--resume] [--limit SECONDS] [--out FILE] [--list]

Beside FILE lies what was found so far, as JSON: mutations that are not tried again keep it.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.mutations.catalogue import MUTATIONS, chosen, problems
from tests.mutations.mutation import Mutation, MutationError
from tests.mutations.report import mutations_section, put_section, today
from tests.mutations.results import Result, change_of, load_results, save_results
from tests.mutations.trial import attempt, copy_tree, require_whole

ROOT = Path(__file__).parent.parent.parent
# The slowest of the quick tests of one mutation take 40 seconds on an idle core.
_LIMIT = 240.0


def main(arguments: list[str] | None = None) -> int:
    """Try mutations one after the other; 1 if one was not caught, 2 if they cannot be tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutations alone")
    parser.add_argument("--resume", action="store_true", help="those that have no result in --out")
    parser.add_argument("--limit", type=float, default=_LIMIT, help="seconds for each of them")
    parser.add_argument("--out", type=Path, help="Markdown file whose section is written anew")
    parser.add_argument("--list", action="store_true", help="name all mutations, and try none")
    asked = parser.parse_args(arguments)
    if asked.list:
        for mutation in MUTATIONS:
            print(f"{mutation.name}: {mutation.breaks}")
        return 0
    known = {mutation.name: mutation for mutation in MUTATIONS}
    stored = None if asked.out is None else asked.out.with_suffix(".json")
    results = {} if stored is None else load_results(stored, MUTATIONS)
    tried = {}
    try:
        wanted = [m for m in chosen(asked.only) if not (asked.resume and m.name in results)]
        for name, result in _tried(wanted, asked.limit):
            told = " ".join(filter(None, (result.verdict, result.by)))
            print(f"{name}: {told} ({result.seconds:.0f} s)", flush=True)
            tried[name] = result
            if stored is not None:
                results[name] = result
                results = {name: results[name] for name in known if name in results}
                save_results(stored, results)
                put_section(asked.out, "Mutations", mutations_section(results, known))
    except MutationError as error:
        print(error, file=sys.stderr)
        return 2
    missed = [name for name, result in tried.items() if result.verdict != "caught"]
    print(f"{len(tried) - len(missed)} of {len(tried)} caught")
    return 0 if all(known[name].survives for name in missed) else 1


def _tried(mutations: Sequence[Mutation], limit: float) -> Iterator[tuple[str, Result]]:
    if wrong := problems(ROOT):
        raise MutationError("\n".join(wrong))
    if not mutations:
        return
    whole: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree = Path(folder).resolve()
        copy_tree(ROOT, tree)
        for mutation in mutations:
            fresh = [test for test in mutation.tests if test not in whole]
            if fresh:
                seconds = require_whole(tree, fresh)
                print(f"unchanged, {', '.join(fresh)} passes ({seconds:.0f} s)", flush=True)
                whole.update(fresh)
            found = attempt(tree, mutation, limit)
            by = found.by.rpartition("/")[2] if found.verdict == "caught" else found.by
            change, date = change_of(mutation), today()
            yield mutation.name, Result(found.verdict, by, round(found.seconds, 1), date, change)


if __name__ == "__main__":
    sys.exit(main())
