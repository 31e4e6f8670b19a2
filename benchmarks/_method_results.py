"""What the method benchmark measured so far, on disk after each training."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _datasets import Budget, Values

from flows.provenance import provenance

# The tables are not among them: other words change no number.
_BENCHMARK_FILES = ("method.py", "_method_variants.py", "_datasets.py", "_foods.py", "_students.py")


class Results:
    """Every measurement so far: a benchmark that was stopped goes on where it was.

    Only with the same budget and the same code, so that a table holds what one version gives.
    """

    def __init__(self, path: Path, budget: Budget) -> None:
        self._path = path
        self.content: dict[str, Any] = {
            "budget": asdict(budget),
            "code": code_digest(),
            "provenance": provenance(),
            "rows": [],
        }
        if not path.exists():
            return
        found = json.loads(path.read_text())
        if all(found[name] == self.content[name] for name in ("budget", "code")):
            self.content = found
        else:
            # Hours may lie in them: they are put aside, not overwritten.
            aside = path.with_name(f"{path.stem}-{found['code']}.json")
            path.rename(aside)
            print(f"Code or budget changed: starts anew, {aside} keeps the old.", flush=True)

    def has(self, **key: Any) -> bool:
        return any(key.items() <= row.items() for row in self.content["rows"])

    def add(self, found: dict[str, Values], **key: Any) -> None:
        """Keep what was measured, by subject."""
        self.content["rows"] += [{**key, "subject": s, **values} for s, values in found.items()]
        self.content["provenance"] = provenance()
        written = self._path.with_suffix(".part")
        written.write_text(json.dumps(self.content, indent=1))
        # In one step: a benchmark may be stopped at any moment.
        written.replace(self._path)


def code_digest() -> str:
    """Return a digest of the source files that decide what a student becomes and is measured as."""
    here = Path(__file__).parent
    files = [here / name for name in _BENCHMARK_FILES]
    for folder in ("tintem_core", "flows/stages"):
        files += sorted((here.parent / folder).rglob("*.py"))
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
