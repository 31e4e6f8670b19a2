"""The model registry: versions of a model, a history that only grows, and a pointer to its end.

latest/<name>/<number>.json   one version per promotion or rollback; created once, never edited
latest/<name>.json            the current version once more, for devices that fetch; written last

The history is the truth. A crash between the two writes leaves the pointer at the version before,
which is whole and whose model is there; `sync_pointer` moves it on.
"""

import hashlib
import secrets
from datetime import UTC, datetime

from storage.errors import CorruptRecordError, LatestChangedError, StorageInputError
from storage.root import Root
from storage.versions import (
    FOLDER,
    Action,
    Model,
    Version,
    model_names,
    pack_version,
    read_versions,
)


def history(root: Root, name: str) -> list[Version]:
    """Every version of a model, oldest first.

    Raises:
        CorruptRecordError: if one is damaged or missing.
    """
    return read_versions(root, name)[0]


def problems(root: Root) -> dict[str, str]:
    """What is wrong with the versions and pointers of all models, by file; nothing is changed."""
    found = {}
    for name in model_names(root):
        pointer = f"{FOLDER}/{name}.json"
        try:
            version = current_version(root, name)
        except CorruptRecordError as error:
            found[f"{FOLDER}/{name}"] = str(error)
            continue
        if version is None:
            found[pointer] = "there is no version that it could be a copy of"
            continue
        if root.read_or_none(pointer) != pack_version(version):
            found[pointer] = (
                f"it is not the newest version, {version.number}; `tintem nightly` and `tintem "
                "promote` write it anew"
            )
        try:
            _require_model(root, version.model)
        except StorageInputError as error:
            found[version.model.onnx] = str(error)
    return found


def current_version(root: Root, name: str) -> Version | None:
    """The newest version, or None where nothing was ever promoted."""
    versions = history(root, name)
    return versions[-1] if versions else None


def rejected(versions: list[Version]) -> dict[str, Version]:
    """Students that were rolled back and not promoted since, by the version that did so."""
    found: dict[str, Version] = {}
    for version in versions:
        found.pop(version.model.student, None)
        found |= dict.fromkeys(version.rejected, version)
    return found


def promote(root: Root, name: str, model: Model, why: str, over: int | None) -> Version:
    """Make a model the current version.

    Args:
        over: number of the version that it was compared with; None: there was none.

    Raises:
        LatestChangedError: if another version came meanwhile.
        StorageInputError: if the model's file is missing or is not the one that is meant.
    """
    versions, number = read_versions(root, name)
    current = versions[-1] if versions else None
    if (current and current.number) != over:
        raise _changed(root, name, over, current)
    return _append(root, name, number, current, "promoted", model, why, over, ())


def roll_back(root: Root, name: str, to: int | None = None) -> Version:
    """Return to the model before, or to that of a numbered version.

    The students that are left behind are remembered: see :func:`rejected`.

    Raises:
        StorageInputError: if there is nothing to return to, or its file is not there any more.
        LatestChangedError: if another version came meanwhile.
    """
    known, number = read_versions(root, name)
    versions = {version.number: version for version in known}
    if not versions:
        raise StorageInputError(
            f"{root.url} has no latest for {name}, so there is nothing to roll back: "
            "`tintem nightly CONFIG.yaml` promotes the first one."
        )
    current = versions[max(versions)]
    if to is None and current.before is None:
        raise StorageInputError(
            f"{current.model.student} is the first that was promoted as latest of {name}: there "
            "is nothing before it to go back to."
        )
    target = versions.get(current.before if to is None else to)  # type: ignore[arg-type]
    if target is None:
        raise StorageInputError(
            f"the history of {name} has no entry {to}: it runs from {min(versions)} to "
            f"{current.number}."
        )
    if target.model.student == current.model.student:
        raise StorageInputError(
            f"entry {target.number} of {name} is {target.model.student}, which is in force already."
        )
    passed = _left_behind(versions, current, target)
    rejects = tuple(dict.fromkeys(version.model.student for version in passed))
    why = f"returned from {current.model.student} (entry {current.number}) to entry {target.number}"
    return _append(
        root, name, number, current, "rolled back", target.model, why, target.before, rejects
    )


def sync_pointer(root: Root, name: str) -> Version | None:
    """Point to the current version, where a crash has left that undone; return it."""
    pointer = f"{FOLDER}/{name}.json"
    while True:
        version = current_version(root, name)
        # Whoever writes looks again: a slower writer may have put an older version there.
        if version is None or root.read_or_none(pointer) == pack_version(version):
            return version
        root.write(pointer, pack_version(version))


def _left_behind(versions: dict[int, Version], current: Version, target: Version) -> list[Version]:
    """The versions that a rollback rejects; none, where it goes on to a later student."""
    passed, at = [current], current
    while at.before is not None:
        at = versions[at.before]
        # Not by number: who was returned to stands under several.
        if at.model.student == target.model.student:
            return passed
        passed.append(at)
    first: dict[str, int] = {}
    for number, version in sorted(versions.items()):
        first.setdefault(version.model.student, number)
    is_older = first[target.model.student] < first[current.model.student]
    return [current] if is_older else []


def _append(
    root: Root,
    name: str,
    number: int,
    current: Version | None,
    action: Action,
    model: Model,
    why: str,
    before: int | None,
    rejects: tuple[str, ...],
) -> Version:
    _require_model(root, model)
    over = current.number if current else None
    version = Version(
        name=name,
        # Found together with `current`: whoever came since has this number, and `create` fails.
        number=number,
        action=action,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        why=why,
        before=before,
        rejected=rejects,
        model=model,
    )
    # Two that promote the same model in the same second are still two.
    owned = pack_version(version, token=secrets.token_hex(8))
    if not root.create(f"{FOLDER}/{name}/{version.number:06d}.json", owned):
        raise _changed(root, name, over, current_version(root, name))
    sync_pointer(root, name)
    return version


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


def _changed(root: Root, name: str, over: int | None, now: Version | None) -> LatestChangedError:
    was = "there was none" if over is None else f"it was entry {over}"
    found = "there is none" if now is None else f"it is entry {now.number} ({now.model.student})"
    return LatestChangedError(
        f"the latest of {name} below {root.url} has changed meanwhile: {was}, now {found}. "
        "Nothing was changed; run the same command again."
    )
