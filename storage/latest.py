"""Which student of a line is in force: a history that only grows, and a pointer to its end.

latest/<line>/<number>.json   one entry per promotion or return; created once, never edited
latest/<line>.json            the newest entry once more, for those who fetch; written last

The history is the truth. A crash between the two writes leaves the pointer at the entry before,
which is whole and whose model is there; `settle` moves it on.
"""

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

from storage._records import seal, unseal
from storage.errors import LatestChangedError, StorageInputError
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
    night: str
    """The night that promoted it."""
    reference: dict[str, Any]
    """What it learned from: the manifest's id, photos by split."""
    settings: dict[str, Any]
    """What it was made with."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is, or was, in force from a moment on."""

    line: str
    number: int
    action: Action
    since: str
    """UTC, ISO 8601."""
    why: str
    before: int | None
    """The entry that a rollback from here returns to; None: this is the first."""
    rejects: tuple[str, ...]
    """Students that this entry turned away from."""
    model: Model


def lines(root: Root) -> list[str]:
    """The lines of students that have a history."""
    return root.folders(FOLDER)


def history(root: Root, line: str) -> list[Entry]:
    """Every entry of a line, oldest first.

    Raises:
        CorruptRecordError: if one is damaged.
    """
    return _history(root, line)[0]


def newest(root: Root, line: str) -> Entry | None:
    """The entry in force, or None where nothing was ever promoted."""
    entries = history(root, line)
    return entries[-1] if entries else None


def rejected(entries: list[Entry]) -> dict[str, Entry]:
    """Students that were rolled back and not taken since, by the entry that did so."""
    found: dict[str, Entry] = {}
    for entry in entries:
        found.pop(entry.model.student, None)
        found |= dict.fromkeys(entry.rejects, entry)
    return found


def promote(root: Root, line: str, model: Model, why: str, over: int | None) -> Entry:
    """Put a model in force.

    Args:
        over: number of the entry that it was compared with; None: there was none.

    Raises:
        LatestChangedError: if another entry came meanwhile.
        StorageInputError: if the model's file is missing or is not the one that is meant.
    """
    entries, number = _history(root, line)
    current = entries[-1] if entries else None
    if (current and current.number) != over:
        raise _changed(root, line, over, current)
    return _append(root, line, number, current, "promoted", model, why, over, ())


def roll_back(root: Root, line: str, to: int | None = None) -> Entry:
    """Return to the model before, or to that of a numbered entry.

    What is turned away from is remembered: see :func:`rejected`.

    Raises:
        StorageInputError: if there is nothing to return to, or its file is not there any more.
        LatestChangedError: if another entry came meanwhile.
    """
    known, number = _history(root, line)
    entries = {entry.number: entry for entry in known}
    if not entries:
        raise StorageInputError(
            f"{root.url} has no latest for {line}, so there is nothing to roll back: "
            "`tintem nightly CONFIG.yaml` promotes the first one."
        )
    current = entries[max(entries)]
    if to is None and current.before is None:
        raise StorageInputError(
            f"{current.model.student} is the first that was promoted as latest of {line}: there "
            "is nothing before it to go back to."
        )
    target = entries.get(current.before if to is None else to)  # type: ignore[arg-type]
    if target is None:
        raise StorageInputError(
            f"the history of {line} has no entry {to}: it runs from {min(entries)} to "
            f"{current.number}."
        )
    if target.model.student == current.model.student:
        raise StorageInputError(
            f"entry {target.number} of {line} is {target.model.student}, which is in force already."
        )
    passed = _passed(entries, current, target)
    rejects = tuple(dict.fromkeys(entry.model.student for entry in passed))
    why = f"returned from {current.model.student} (entry {current.number}) to entry {target.number}"
    return _append(
        root, line, number, current, "rolled back", target.model, why, target.before, rejects
    )


def settle(root: Root, line: str) -> Entry | None:
    """Make the pointer tell the newest entry, which a crash may have left undone; return it."""
    pointer = f"{FOLDER}/{line}.json"
    while True:
        entry = newest(root, line)
        # Whoever writes looks again: a slower writer may have put an older entry there.
        if entry is None or root.read_or_none(pointer) == _packed(entry):
            return entry
        root.write(pointer, _packed(entry))


def _history(root: Root, line: str) -> tuple[list[Entry], int]:
    """Every entry of a line, oldest first, and the number after them, both from one listing."""
    paths = [path for path in root.list(f"{FOLDER}/{line}") if path.endswith(".json")]
    # Where a folder has no hard links, a crash can leave an empty object: never an entry, but its
    # number is taken.
    number = max((int(path[-11:-5]) for path in paths), default=0) + 1
    found = [(path, data) for path, data in zip(paths, root.read_many(paths), strict=True) if data]
    return [_parse(data, f"{root.url}/{path}") for path, data in found], number


def _passed(entries: dict[int, Entry], current: Entry, target: Entry) -> list[Entry]:
    """The entries that a return turns away from; none, where it goes on to a later student."""
    passed, at = [current], current
    while at.before is not None:
        at = entries[at.before]
        # Not by number: who was returned to stands under several.
        if at.model.student == target.model.student:
            return passed
        passed.append(at)
    first: dict[str, int] = {}
    for number, entry in sorted(entries.items()):
        first.setdefault(entry.model.student, number)
    is_older = first[target.model.student] < first[current.model.student]
    return [current] if is_older else []


def _append(
    root: Root,
    line: str,
    number: int,
    current: Entry | None,
    action: Action,
    model: Model,
    why: str,
    before: int | None,
    rejects: tuple[str, ...],
) -> Entry:
    _require_model(root, model)
    over = current.number if current else None
    entry = Entry(
        line=line,
        # Found together with `current`: whoever came since has this number, and `create` fails.
        number=number,
        action=action,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        why=why,
        before=before,
        rejects=rejects,
        model=model,
    )
    # Two that promote the same model in the same second are still two.
    owned = _packed(entry, token=secrets.token_hex(8))
    if not root.create(f"{FOLDER}/{line}/{entry.number:06d}.json", owned):
        raise _changed(root, line, over, newest(root, line))
    settle(root, line)
    return entry


def _require_model(root: Root, model: Model) -> None:
    """Raises StorageInputError unless the model's file is there, byte for byte."""
    data = root.read_or_none(model.onnx)
    if data is None or hashlib.sha256(data).hexdigest() != model.sha256:
        state = "is missing" if data is None else "is not the file that was recorded"
        raise StorageInputError(
            f"{root.url}/{model.onnx} {state}: the latest stays as it is. "
            "Bring the file back, or take another entry with `tintem rollback CONFIG.yaml --to "
            "NUMBER`; `tintem latest CONFIG.yaml` lists them."
        )


def _changed(root: Root, line: str, over: int | None, now: Entry | None) -> LatestChangedError:
    was = "there was none" if over is None else f"it was entry {over}"
    found = "there is none" if now is None else f"it is entry {now.number} ({now.model.student})"
    return LatestChangedError(
        f"the latest of {line} below {root.url} has changed meanwhile: {was}, now {found}. "
        "Nothing was changed; run the same command again."
    )


def _packed(entry: Entry, **more: str) -> bytes:
    # Through JSON, so that what is sealed is what will be read: tuples become lists.
    return seal(json.loads(json.dumps(asdict(entry) | more)))


def _parse(data: bytes, where: str) -> Entry:
    content = unseal(data, where)
    model = {field.name: content["model"][field.name] for field in fields(Model)}
    rest = {f.name: content[f.name] for f in fields(Entry) if f.name not in ("model", "rejects")}
    return Entry(model=Model(**model), rejects=tuple(content["rejects"]), **rest)
