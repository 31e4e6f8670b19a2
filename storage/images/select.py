"""Which files a source's uri names, which of them are wanted, and what their names tell."""

import fnmatch
from collections import Counter
from pathlib import Path

import polars as pl

from storage.errors import SourceError
from storage.images.source import IMAGE_KINDS, IMAGE_SUFFIXES, SourceConfig
from storage.root import ObjectFacts, Root, open_root

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "val", "valid", "validation", "eval", "dev"), "test"),
}

# Thumbnails of a Synology, companions of a Mac.
_SYSTEM_FOLDERS = ("@eaDir", "__MACOSX")


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
        cure = "Correct the source's uri."
        if facts and source.include:
            cure = f"include ({', '.join(source.include)}) names files, not what is in them."
        raise SourceError(f"{source.uri} names no {suffix} file. {cure}")
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


def is_glob(uri: str) -> bool:
    """Whether a uri names many things by wildcards; not if something has exactly this name."""
    if not any(c in uri for c in "*?["):
        return False
    if uri.startswith("s3://"):
        folder, _, name = uri.rstrip("/").rpartition("/")
        return not open_root(folder).exists(name)
    return not Path(uri).expanduser().exists()


def included(path: str, source: SourceConfig) -> bool:
    """Whether a path is wanted: not hidden, and matching ``include`` where that is given."""
    return not is_hidden(path) and matches(path, source)


def is_hidden(path: str) -> bool:
    """Whether a file, or a folder above it, is hidden or of an operating system's own making."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return any(part.startswith(".") or part in _SYSTEM_FOLDERS for part in parts)


def left_out(path: str, source: SourceConfig) -> str | None:
    """Why a file is not looked at as an image; None where it is."""
    if is_hidden(path):
        return "hidden"
    suffix = suffix_of(path)
    if suffix not in IMAGE_SUFFIXES:
        return suffix or "without a suffix"
    return None if matches(path, source) else "not in include"


def suffix_of(path: str) -> str:
    """The last suffix of a file's name, in lower case, with its dot; empty where it has none."""
    name, dot, suffix = path.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if name and dot else ""


def looked_for(skipped: Counter[str]) -> str:
    """What was looked for, and found instead, in brackets."""
    found = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
    return f"(looked for {IMAGE_KINDS}; found {found or 'nothing'})"


def matches(path: str, source: SourceConfig) -> bool:
    """Whether a path matches ``include``, where that is given."""
    return not source.include or any(fnmatch.fnmatch(path, glob) for glob in source.include)


def split_of(name: str | None) -> str | None:
    """ "train" or "test" for the usual names of splits, None for anything else."""
    return SPLIT_NAMES.get(name.strip().lower()) if name else None


def known_splits(names: pl.Series, where: str) -> pl.Series:
    """ "train" or "test" for each of the usual names, null where nothing is given.

    Raises:
        SourceError: if there are other names.
    """
    words = names.cast(pl.String).str.strip_chars().str.to_lowercase()
    found = words.replace_strict(SPLIT_NAMES, default=None, return_dtype=pl.String)
    unknown = names.filter(found.is_null() & words.is_not_null() & (words != ""))
    if len(unknown):
        first = ", ".join(repr(str(name)) for name in unknown.unique(maintain_order=True)[:3])
        raise SourceError(
            f"{where} names splits that are not known: {first}. Write {', '.join(SPLIT_NAMES)} or "
            "nothing there, or name another split_column."
        )
    return found


def pick_column(columns: list[str], wanted: str | None, usual: tuple[str, ...], what: str) -> str:
    """The column asked for, or the first of the usual names.

    Raises:
        SourceError: if there is none; names the columns there are.
    """
    for name in (wanted,) if wanted else usual:
        if (found := _column(columns, name)) is not None:
            return found
    asked = f"no column {wanted!r}" if wanted else f"none of {', '.join(usual)}"
    raise SourceError(
        f"{what} has {asked}; its columns are {', '.join(columns)}. Name the right one."
    )


def optional_column(columns: list[str], wanted: str | None, usual: str, what: str) -> str | None:
    """The column asked for (which must be there), or the usual one if it is there."""
    if wanted is None:
        return _column(columns, usual)
    return pick_column(columns, wanted, (), what)


def _column(columns: list[str], name: str) -> str | None:
    """The column of a name, in any capitals where there is no exact one, if it is there once."""
    if name in columns:
        return name
    alike = [column for column in columns if column.strip().lower() == name.strip().lower()]
    return alike[0] if len(alike) == 1 else None
