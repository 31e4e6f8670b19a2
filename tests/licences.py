"""The licences of what is installed with the project, as docs/licences.md lists them.

python -m tests.licences > docs/licences.md
"""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
# What only those need who work on the project itself.
_OURS = {"test", "bench", "audit"}
_NONE = {"", "UNKNOWN"}
NOT_HERE = "not installed here"
_HEAD = """# Licences

TinTeM is under the licence in `LICENSE`. What it installs, as each package says itself: every
package named in `pyproject.toml`, without what these bring along. The photos of the quickstart,
elpv-dataset, are not for commercial use.

| installed with | package | licence |
| --- | --- | --- |
"""


def dependencies() -> dict[str, list[str]]:
    """Return the packages that are installed by default and with each extra."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = {f"[{k}]": v for k, v in project["optional-dependencies"].items() if k not in _OURS}
    groups = {"tintem": project["dependencies"], **extras}
    return {
        group: sorted(found.group() for line in lines if (found := _NAME.match(line)))
        for group, lines in groups.items()
    }


def licence(package: str) -> str:
    """Return what a package says of its licence."""
    try:
        found = metadata(package)
    except PackageNotFoundError:
        return NOT_HERE
    named = [line for line in found.get_all("Classifier", ()) if line.startswith("License ::")]
    named = [line.rpartition(" :: ")[2] for line in named]
    said = (found.get("License-Expression"), ", ".join(named), found.get("License"))
    told = next((text for text in said if text and text.strip() not in _NONE), "not told")
    return told.strip().splitlines()[0]


def page() -> str:
    """Return the page, Markdown."""
    rows = [
        f"| {group} | {package} | {licence(package)} |"
        for group, packages in dependencies().items()
        for package in packages
    ]
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(page(), end="")
