"""What is in force below a root, what a rollback returns to, and what the last nights decided."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from storage.artifacts import RECORD
from storage.identity import canonical_json
from storage.records import parse_record
from storage.registry import history, rejected
from storage.root import Root
from storage.versions import Version, model_names

_NIGHTS = "nights"


@dataclass(frozen=True)
class Standing:
    """What the history of models and the records of nights say."""

    versions: tuple[Version, ...]
    """Every version of every model."""
    kept_versions: tuple[Version, ...]
    """Those in force, and the last ones before."""
    kept_nights: tuple[dict[str, Any], ...]
    past_nights: tuple[str, ...]
    """Ids of nights that no later one looks at."""
    turned_down: tuple[str, ...]
    """Lists of photos of students that were rolled back: no night decides on them again."""

    @classmethod
    def of(cls, root: Root, keep: int) -> "Standing":
        """Read them.

        Args:
            keep: how many nights stay in any case, and how many steps of a rollback.

        Raises:
            CorruptRecordError: if a version, or the record of a night, is damaged.
        """
        histories = [history(root, name) for name in model_names(root)]
        current = [versions[-1] for versions in histories if versions]
        kept = [version for versions in histories for version in _last(versions, keep)]
        nights = _night_records(root)
        needed = {record["id"] for record in nights[:keep]}
        needed |= {v.model.night for v in current if v.model.night is not None}
        needed |= set(_last_kept(nights, {v.name: v.number for v in current}))
        turned_down = [
            version.model.reference["manifest"]
            for versions in histories
            for version in versions
            if version.model.student in rejected(versions)
        ]
        return cls(
            tuple(version for versions in histories for version in versions),
            tuple(kept),
            tuple(record for record in nights if record["id"] in needed),
            tuple(record["id"] for record in nights if record["id"] not in needed),
            tuple(turned_down),
        )

    def photo_lists(self, kept_alone: bool) -> set[str]:
        """Return the ids of manifests that a night may ask for.

        Args:
            kept_alone: leave out those of versions that do not stay.
        """
        versions = self.kept_versions if kept_alone else self.versions
        found = {version.model.reference["manifest"] for version in versions}
        return found | set(self.turned_down) | {n["data"]["manifest"] for n in self.kept_nights}

    def names(self) -> set[str]:
        """Return every text in what stays, ids among them."""
        return texts([*(asdict(version) for version in self.kept_versions), *self.kept_nights])


def texts(content: Any) -> set[str]:
    """Return every text in some JSON, names of fields too."""
    return set(_texts(content))


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        yield from content
        for value in content.values():
            yield from _texts(value)
    elif isinstance(content, list | tuple):
        for value in content:
            yield from _texts(value)


def _last(versions: list[Version], keep: int) -> list[Version]:
    """Return the version in force, those that rollbacks return to, and the last ones made."""
    numbered = {version.number: version for version in versions}
    found = {version.number for version in versions[-keep - 1 :]}
    at = versions[-1] if versions else None
    for _ in range(keep + 1):
        if at is None:
            break
        found.add(at.number)
        at = numbered.get(at.before) if at.before is not None else None
    return [numbered[number] for number in sorted(found)]


def _night_records(root: Root) -> list[dict[str, Any]]:
    """Return the records of all nights, the newest first."""
    paths = [f"{_NIGHTS}/{id}/{RECORD}" for id in root.folders(_NIGHTS)]
    records = [
        parse_record(data, f"{root.url}/{path}")
        for path, data in zip(paths, root.read_many(paths), strict=True)
        if data is not None
    ]
    return sorted(records, key=lambda record: str(record["created"]), reverse=True)


def _last_kept(nights: list[dict[str, Any]], current: dict[str, int]) -> Iterator[str]:
    """Yield the nights that tonight looks at: the last that kept a model, per what was asked.

    A night that compared with another version than the one in force now is asked for never again.
    """
    seen = set()
    for record in nights:
        for line, decided in record["lines"].items():
            asked = record["spec"]["lines"][line]
            key = line, canonical_json(asked)
            is_asked_for = asked["over"] == current.get(line)
            if decided["outcome"] == "kept" and is_asked_for and key not in seen:
                seen.add(key)
                yield record["id"]
