"""Names for students: the one a sweep gave, else the model and what sets it apart."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.config.sweep import settings_label
from flows.experiments.record import Entry
from storage.identity import digest

_MODEL, _SEED, _WEIGHTS = "student.model", "training.seed", "student.weights"
_DIGITS = 10


@dataclass(frozen=True)
class Name:
    """What a leaderboard calls a student; students of one variant differ in the seed alone."""

    name: str
    variant: str


def names(
    specs: Mapping[str, Mapping[str, Any]],
    mappings: Mapping[str, Mapping[str, Any]],
    swept: Sequence[Entry],
) -> dict[str, Name]:
    """Name students so that no two are called the same.

    Args:
        specs: what determines each student, by its id.
        mappings: what determines each mapping, by its id.
        swept: the students of sweeps, the newest sweep first.
    """
    found = {e.student: Name(e.name, e.variant) for e in reversed(swept) if e.student in specs}
    settings = {id: _settings(spec, mappings) for id, spec in specs.items()}
    apart = _differing(list(settings.values()))
    for id, mine in settings.items():
        if id not in found:
            shown = {k: v for k, v in mine.items() if k == _MODEL or (k in apart and k != _SEED)}
            variant = settings_label(shown)
            seed = {_SEED: mine[_SEED]} if _SEED in apart and _SEED in mine else {}
            found[id] = Name(settings_label({**shown, **seed}), variant)
    kinds = {id: _kind(specs[id]) for id in found}
    called = Counter(name.name for name in found.values())
    # Of each variant as it is called, how many there are.
    variants = Counter(variant for variant, _ in {(found[i].variant, kinds[i]) for i in found})
    return {
        id: Name(
            name.name if called[name.name] == 1 else f"{name.name} ({id[-_DIGITS:]})",
            name.variant if variants[name.variant] == 1 else f"{name.variant} ({kinds[id]})",
        )
        for id, name in found.items()
    }


def _kind(spec: Mapping[str, Any]) -> str:
    """Return what students that differ in the seed alone have in common."""
    training = {name: value for name, value in spec["training"].items() if name != "seed"}
    return digest({**spec, "training": training})[:_DIGITS]


def _settings(spec: Mapping[str, Any], mappings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    named = spec["mapping"]
    mapping = named if isinstance(named, dict) else mappings.get(named, {})
    student = dict(spec["student"])
    # Of a Python student the function is its name.
    student.setdefault("model", student.pop("python", None))
    found = {
        **{f"student.{name}": value for name, value in student.items()},
        **{f"training.{name}": value for name, value in spec["training"].items()},
        **{f"mapping.{name}": value for name, value in mapping.get("mapping", {}).items()},
    }
    if "width" in mapping:
        found["mapping.width"] = mapping["width"]
    if isinstance(found.get(_WEIGHTS), str):
        found[_WEIGHTS] = f"weights {found[_WEIGHTS][:_DIGITS]}"
    return found


def _differing(settings: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the settings that not all have in common, of those that all have."""
    common = set.intersection(*(set(mine) for mine in settings)) if settings else set()
    return {name for name in common if any(mine[name] != settings[0][name] for mine in settings)}
