"""The versions of a model as a root holds them: one record each, and a pointer to the newest.

latest/<name>/<number>.json   one version per promotion or rollback; created once, never edited
latest/<name>.json            the newest version once more
"""

import json
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from storage.errors import CorruptRecordError
from storage.records import seal, unseal
from storage.root import Root

FOLDER = "latest"

Action = Literal["promoted", "rolled back"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """An exported student, and where it comes from."""

    student: str
    mapping: str
    evaluation: str
    export: str
    onnx: str
    """Path of the model below the root."""
    sha256: str
    bytes: int
    input: str
    output: str
    metrics: dict[str, float]
    """As measured when it was promoted, on the test photos of that time."""
    night: str | None
    """The night that promoted it; None: a person did."""
    reference: dict[str, Any]
    """What it learned from: the manifest's id, photos by split."""
    settings: dict[str, Any]
    """What it was made with."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """What is, or was, the current version of a model from a moment on."""

    name: str
    number: int
    action: Action
    since: str
    """UTC, ISO 8601."""
    why: str
    before: int | None
    """The version that a rollback from here returns to; None: this is the first."""
    rejected: tuple[str, ...]
    """Students that this version replaced because they were not wanted."""
    model: Model


# Fields of a version that are called otherwise in the records.
_KEYS = {"name": "line", "rejected": "rejects"}


def model_names(root: Root) -> list[str]:
    """The names of models that have a history, or a pointer into one."""
    found = (re.fullmatch(rf"{FOLDER}/([^/]+?)(/\d{{6}})?\.json", p) for p in root.list(FOLDER))
    return sorted({match[1] for match in found if match})


def read_versions(root: Root, name: str) -> tuple[list[Version], int]:
    """Every version of a model, oldest first, and the number after them, both from one listing.

    Raises:
        CorruptRecordError: if one is damaged or missing.
    """
    # Read before the listing: whoever promotes meanwhile writes the version first.
    pointed = _pointed(root, name)
    listed = root.list(f"{FOLDER}/{name}")
    paths = {int(m[1]): m[0] for m in map(_of(name).fullmatch, listed) if m}
    number = max(paths, default=0) + 1
    read = dict(zip(paths, root.read_many([*paths.values()]), strict=True))
    # Where a folder has no hard links, a crash can leave an empty object: never a version, but
    # its number is taken. One that the pointer is a copy of had a content.
    lost = {n for n in range(1, max(number, pointed + 1)) if n not in paths}
    if pointed and not read.get(pointed):
        lost.add(pointed)
    if lost:
        raise CorruptRecordError(
            f"{root.url}/{FOLDER}/{name}/{min(lost):06d}.json is missing, so nobody can tell which "
            f"model is in force as {name}. Bring the file back."
        )
    return [parse_version(data, root, paths[n]) for n, data in sorted(read.items()) if data], number


def _of(name: str) -> re.Pattern[str]:
    return re.compile(rf"{FOLDER}/{re.escape(name)}/(\d{{6}})\.json")


def _pointed(root: Root, name: str) -> int:
    """The number of the version that the pointer is a copy of; 0 where it cannot be read."""
    path = f"{FOLDER}/{name}.json"
    data = root.read_or_none(path)
    if data is None:
        return 0
    try:
        return int(unseal(data, path)["number"])
    except CorruptRecordError:
        return 0


def pack_version(version: Version, **more: str) -> bytes:
    """A version as a sealed record."""
    # Through JSON, so that what is sealed is what will be read: tuples become lists.
    content = {_KEYS.get(key, key): value for key, value in asdict(version).items()}
    return seal(json.loads(json.dumps(content | more)))


def parse_version(data: bytes, root: Root, path: str) -> Version:
    """A version from its record.

    Raises:
        CorruptRecordError: if it is damaged, or belongs elsewhere.
    """
    where = f"{root.url}/{path}"
    content = unseal(data, where)
    if path != f"{FOLDER}/{content.get(_KEYS['name'])}/{content.get('number', 0):06d}.json":
        raise CorruptRecordError(f"{where} holds another record than its own. Bring its own back.")
    read = {f.name: content[_KEYS.get(f.name, f.name)] for f in fields(Version)}
    model = Model(**{field.name: read["model"][field.name] for field in fields(Model)})
    return Version(**read | {"model": model, "rejected": tuple(read["rejected"])})
