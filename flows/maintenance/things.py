"""Is everything that a root holds beside its caches as it was recorded?"""

from dataclasses import dataclass
from typing import Any

from flows.data.progress import damaged_parts
from storage import artifacts, registry, versions
from storage.images import Manifest, manifest
from storage.root import Root

# What to do where something of a kind is damaged.
_CURES = {
    "mappings": "`tintem run CONFIG.yaml` makes it again.",
    "students": "`tintem run CONFIG.yaml` makes it again.",
    "evaluations": "`tintem run CONFIG.yaml` makes it again.",
    "exports": "`tintem run CONFIG.yaml` makes it again.",
    "nights": "Bring it back, or delete the folder of the night: it is forgotten then.",
    "sweeps": "Delete its folder: `tintem sweep CONFIG.yaml` writes it anew.",
}


@dataclass(frozen=True)
class Problem:
    """One damaged file; ``shard`` is None when no embeddings are lost by it."""

    shard: int | None
    file: str
    reason: str


@dataclass(frozen=True)
class Checked:
    """What was found out about one stored thing that is no cache."""

    id: str
    """Below the root: ``students/<id>``; ``manifests`` and ``latest`` are one thing each."""
    problems: tuple[Problem, ...] = ()
    cure: str = ""

    @property
    def sound(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        problems = [{"file": each.file, "reason": each.reason} for each in self.problems]
        return {"id": self.id, "problems": problems, "sound": self.sound}


def check_things(root: Root) -> list[Checked]:
    """Read every byte of what a root holds beside its caches, and compare it with the records."""
    found = []
    if root.exists(manifest.FOLDER):
        cure = "`tintem run CONFIG.yaml` indexes again."
        found.append(_checked(manifest.FOLDER, Manifest.problems(root), cure))
    for kind, cure in _CURES.items():
        for id in root.folders(kind):
            problems = {
                f"{kind}/{id}/{name}": reason
                for name, reason in artifacts.problems(root, kind, id).items()
            }
            if kind == "students":
                problems |= damaged_parts(root, id)
                if not _claims_to_be_finished(root, id):
                    problems.pop(f"{kind}/{id}/{artifacts.RECORD}", None)
            found.append(_checked(f"{kind}/{id}", problems, cure))
    if root.exists(versions.FOLDER):
        found.append(_checked(versions.FOLDER, registry.problems(root), ""))
    return found


def _claims_to_be_finished(root: Root, student: str) -> bool:
    """Whether there is more of a student than a training in progress leaves."""
    base = f"students/{student}/"
    names = [path.removeprefix(base) for path in root.list(base)]
    return any(not name.startswith("checkpoints/") and name != "progress.json" for name in names)


def _checked(id: str, problems: dict[str, str], cure: str) -> Checked:
    return Checked(id, tuple(Problem(None, *each) for each in problems.items()), cure)
