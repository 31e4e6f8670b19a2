"""What is written down about mutations and coverage: sections of one Markdown file."""

import re
from collections.abc import Mapping
from pathlib import Path

from flows.provenance import provenance
from tests.mutations.mutation import Mutation
from tests.mutations.results import Result

_TITLE = "# What the quick tests notice"


def put_section(path: Path, title: str, body: str) -> None:
    """Write a section of a file; the others stay as they are."""
    text = path.read_text() if path.exists() else f"{_TITLE}\n"
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    kept = {section.partition("\n")[0]: section.partition("\n")[2] for section in sections}
    kept[title] = f"\n{body.strip()}\n\n"
    parts = [f"## {name}\n{content}" for name, content in kept.items()]
    path.write_text(f"{head.rstrip()}\n\n" + "".join(parts).rstrip() + "\n")


def machine() -> str:
    """Name the machine and the versions of a measurement."""
    found = provenance()
    packages = found["packages"]
    return (
        f"{found['cores']} cores ({found['machine']}), Python {found['python']}, "
        f"torch {packages['torch']}, NumPy {packages['numpy']}"
    )


def today() -> str:
    """The day, UTC."""
    return str(provenance()["created"])[:10]


def mutations_section(results: Mapping[str, Result], mutations: Mapping[str, Mutation]) -> str:
    """The share that was caught, what survived and why, and every mutation with its test.

    Args:
        results: by name; of all mutations, or of some.
        mutations: by name.
    """
    caught = sum(result.verdict == "caught" for result in results.values())
    dates = sorted({result.date for result in results.values()})
    lines = [
        "Each is a small change that makes a result wrong or loses a safety, applied to a copy; "
        "the quick tests named for it run until one fails (`make mutations`).",
        "",
        f"{caught} of {len(results)} ({caught / len(results):.1%}) were caught, in "
        f"{sum(result.seconds for result in results.values()) / 60:.0f} minutes. "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {machine()}.",
        "",
        "Not caught: none." if caught == len(results) else "Not caught:\n",
    ]
    for name, result in results.items():
        if result.verdict != "caught":
            why = mutations[name].survives or "there is no quick test that notices it yet."
            lines.append(f"- `{name}` ({result.verdict}): {why}")
    lines += ["", "| mutation | module | what would be wrong | caught by | s |"]
    lines += ["|---|---|---|---|---:|"]
    for name, result in results.items():
        change = mutations[name]
        by = result.by if result.verdict == "caught" else result.verdict
        module = change.file.removesuffix(".py").replace("/", ".")
        cells = (name, module, change.breaks, f"`{_cell(by)}`")
        lines.append(f"| {' | '.join(cells)} | {result.seconds:.0f} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
