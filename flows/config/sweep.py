"""Many students from one cache: which settings vary, and how the students are run."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

DEFAULT_METRIC = "student/test/pairwise_pearson"
_VARYING = ("student", "training", "mapping")
_MODEL, _NAME, _SEED, _WEIGHTS = "student.model", "name", "training.seed", "student.weights"
_PYTHON = "student.python"
Settings = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One student of a sweep: a name, and how it differs from the run."""

    name: str
    variant: str
    """The name without the seed: students of one variant differ in the seed alone."""
    settings: Settings
    where: str
    """The place in the config that an error names."""


class SweepConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Students that differ in some settings of student, training and mapping."""

    grid: dict[str, tuple[Any, ...]] = Field(
        {}, description="values by dotted setting; every combination of them is a student"
    )
    list: tuple[Settings, ...] = Field(
        (), description="further students: values by dotted setting, and maybe a name"
    )
    seeds: tuple[int, ...] = Field(
        (), description="train every student once with each of these; none: with the run's seed"
    )
    metric: str = Field(
        DEFAULT_METRIC, description="what the leaderboard ranks by, as subject/dataset/name"
    )
    at_once: int | None = Field(
        None,
        ge=1,
        le=1_024,
        description="students in work at once, each in a process of its own, GPUs dealt out among "
        "them; null: one per GPU, and with fewer than two GPUs, or several runtime.processes, one "
        "after the other",
    )

    @model_validator(mode="after")
    def _students_can_share_the_cache(self) -> Self:
        if not (self.grid or self.list or self.seeds):
            raise ValueError("a sweep needs students: give grid, list or seeds")
        names = [entry.get(_NAME) for entry in self.list]
        for place, settings in (("grid", self.grid), *(("list", e) for e in _unnamed(self.list))):
            for setting in _flat(settings):
                if setting.split(".")[0] not in _VARYING:
                    raise ValueError(
                        f"'{setting}' cannot vary in a sweep: its students share photos, caches "
                        f"and measurements, and differ in settings of {', '.join(_VARYING)}"
                    )
                if self.seeds and setting == _SEED:
                    raise ValueError(f"{place} and seeds both say '{_SEED}': leave one of them out")
        if empty := [setting for setting, values in self.grid.items() if not values]:
            raise ValueError(f"grid gives no value for '{empty[0]}'")
        if wrong := [n for n in names if n is not None and not (isinstance(n, str) and n.strip())]:
            raise ValueError(f"list names a student {wrong[0]!r}: a name is a text")
        for what, given in (("seeds", self.seeds), ("list", [n for n in names if n is not None])):
            if twice := [value for value in given if given.count(value) > 1]:
                raise ValueError(f"{what} names {twice[0]!r} twice")
        return self

    def points(self, model: str) -> tuple[Point, ...]:
        """Return the students in order: the grid's, then the list's, each with every seed.

        Args:
            model: the run's own student, which the name of a student without a model begins with.
        """
        variants: list[tuple[str | None, Settings, str]] = [
            *((None, settings, "sweep.grid") for settings in _combinations(self.grid)),
            *(
                (entry.get(_NAME), settings, f"sweep.list[{number}]")
                for number, (entry, settings) in enumerate(
                    zip(self.list, _unnamed(self.list), strict=True)
                )
            ),
        ]
        taken = {name for name, _, _ in variants if name is not None}
        points = []
        for given, settings, where in variants or [(None, {}, "sweep")]:
            flat = _flat(settings)
            own = {} if _PYTHON in flat else {_MODEL: model}
            variant = given or _free(settings_label({**own, **flat}), taken)
            taken.add(variant)
            points += [
                Point(_seeded(variant, seed), variant, _with_seed(settings, seed), where)
                for seed in self.seeds or (None,)
            ]
        return tuple(points)


def settings_label(settings: Mapping[str, Any]) -> str:
    """Say settings briefly: ``mobilenetv3_small_050, proteus, epochs=20``."""
    return ", ".join(_setting_label(name, value) for name, value in settings.items())


def anchor_students(sweep: Any, anchor: Callable[[Any, str], None]) -> None:
    """Give the files that a sweep's students name to ``anchor``, as (mapping, key); see config."""
    if not isinstance(sweep, dict):
        return
    grid, entries = sweep.get("grid"), sweep.get("list")
    for setting in (_WEIGHTS, _PYTHON):
        if isinstance(grid, dict) and isinstance(grid.get(setting), list):
            boxes = [{setting: value} for value in grid[setting]]
            for box in boxes:
                anchor(box, setting)
            grid[setting] = [box[setting] for box in boxes]
        for entry in entries if isinstance(entries, list) else []:
            anchor(entry, setting)
            if isinstance(entry, dict):
                anchor(entry.get("student"), setting.rpartition(".")[2])


def _setting_label(setting: str, value: Any) -> str:
    if isinstance(value, str):
        if setting == _PYTHON:
            return PurePath(value).name
        return PurePath(value).stem if setting == _WEIGHTS else value
    shown = f"{value:g}" if isinstance(value, float) else str(value).lower()
    return f"{setting.rpartition('.')[2]}={shown}"


def _flat(settings: Mapping[str, Any]) -> Settings:
    """Write nested settings with dotted names."""
    flat: Settings = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": v for inner, v in _flat(value).items()}
        else:
            flat[name] = value
    return flat


def _unnamed(entries: Sequence[Settings]) -> list[Settings]:
    return [{k: v for k, v in entry.items() if k != _NAME} for entry in entries]


def _combinations(grid: Mapping[str, tuple[Any, ...]]) -> Iterator[Settings]:
    if grid:
        for values in itertools.product(*grid.values()):
            yield dict(zip(grid, values, strict=True))


def _free(name: str, taken: set[str]) -> str:
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return next(n for n in itertools.chain([name], numbered) if n not in taken)


def _seeded(variant: str, seed: int | None) -> str:
    return variant if seed is None else f"{variant}, seed={seed}"


def _with_seed(settings: Settings, seed: int | None) -> Settings:
    return settings if seed is None else {**settings, _SEED: seed}
