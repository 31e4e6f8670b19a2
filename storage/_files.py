"""Which objects a source's uri names: one file, a folder of them, or a glob."""

import fnmatch

from storage.errors import SourceError
from storage.root import ObjectFacts, Root, open_root
from storage.source import SourceConfig, included, is_glob, split_of


def matching_files(source: SourceConfig, suffix: str) -> tuple[Root, dict[str, ObjectFacts]]:
    """The folder of a source and the files in it that its uri names, in order.

    Raises:
        SourceError: if there are none.
    """
    parts = source.uri.split("/")
    globbed = (i for i in range(len(parts)) if is_glob("/".join(parts[: i + 1])))
    fixed = next(globbed, None)
    is_one = fixed is None and source.uri.lower().endswith(suffix)
    if is_one:
        fixed = len(parts) - 1
    root = open_root("/".join(parts[:fixed]) or ("." if fixed == 0 else "/"))
    pattern = "*" if fixed is None else "/".join(parts[fixed:])
    if is_one:
        facts = root.facts(pattern)
    else:
        facts = {path: f for path, f in root.facts().items() if fnmatch.fnmatch(path, pattern)}
    found = {
        path: fact
        for path, fact in facts.items()
        if path.lower().endswith(suffix) and included(path, source)
    }
    if not found:
        raise SourceError(f"{source.uri} names no {suffix} file. Correct the source's uri.")
    return root, found


def file_splits(paths: list[str], where: str) -> dict[str, str | None]:
    """The split of each file by its folder or the first word of its name, if they have one.

    Raises:
        SourceError: if only some have one.
    """
    found = {path: _file_split(path) for path in paths}
    named = [path for path, split in found.items() if split]
    if named and len(named) < len(paths):
        other = next(path for path, split in found.items() if not split)
        raise SourceError(
            f"{where}: {named[0]} is named after a split, {other} is not. Rename one of them, or "
            "write those you want into include."
        )
    return found


def _file_split(path: str) -> str | None:
    *folders, name = path.split("/")
    first = name.split(".")[0].split("-")[0].split("_")[0]
    return next((s for part in (*folders, first) if (s := split_of(part))), None)
