"""Finished things that nothing in force, no night that stays, and none of some configs names."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from flows.config.run import RunConfig
from flows.config.variants import retrained_students, variant
from flows.data.progress import checkpoint_folder
from flows.maintenance.in_force import texts
from flows.maintenance.leftovers import Look, Removable
from flows.stages.cache_requests import requested_caches
from flows.stages.following import BOARDS
from flows.stages.models import known_teacher
from flows.stages.stored import awaited, stored_features
from storage.artifacts import RECORD
from storage.holders import holders
from storage.images import Manifest
from storage.records import parse_record
from storage.root import Root

# Those that name others come first, so that what a kill leaves names nothing that is gone.
_KINDS = ("sweeps", "exports", "evaluations", "students", "mappings", "caches")
_WHY = "no version of a model that stays, no night and no config that was given needs it"
Place = tuple[str, str]


def unused(look: Look, configs: Sequence[RunConfig]) -> Iterator[Removable]:
    """Find what nobody names.

    Raises:
        InputError: if a config cannot say what it names.
        CorruptRecordError: if a record is damaged: what it needs is not known.
    """
    things = _Things(look.root)
    seeds = set(look.standing.names())
    for config in configs:
        seeds |= ids_of(config, look.root)
    needed = things.needed(seeds)
    for kind in _KINDS:
        for id in things.ids[kind]:
            if (kind, id) in needed:
                continue
            place = f"{kind}/{id}"
            if all(look.is_settled(fact) for fact in look.root.facts(place).values()):
                paths = partial(_paths, look.root, kind, id)
                name = kind.removesuffix("s")
                yield Removable(name, place, _WHY, paths, place)


def ids_of(config: RunConfig, root: Root) -> set[str]:
    """Return the ids of what a config makes of its photos as they were indexed last.

    Its own run, the students of its nights and those of its sweep; of what was made of photos of
    another day, only the caches.
    """
    found: set[str] = set()
    for run in _runs(config):
        for teacher in run.teachers:
            known = known_teacher(teacher, run.runtime.device)
            found |= {want.spec.id for want in requested_caches(run, known)}
        if run.evaluation.index is not None:
            found.add(run.evaluation.index)
        if Manifest.latest(root, run.data.name) is None:
            continue
        mapping, extracted, student = awaited(stored_features(run))
        found |= {mapping, student, *extracted.mapped_tokens}
    return found


def _runs(config: RunConfig) -> Iterator[RunConfig]:
    alone = config.model_copy(update={"sweep": None})
    runs = [alone, *(student.config for student in retrained_students(alone))]
    if config.sweep is not None:
        points = config.sweep.points(config.student.name)
        runs += [variant(alone, point.settings, point.where) for point in points]
    for run in runs:
        yield run
        if run.training.extends is not None:
            shorter = run.training.before_extension()
            yield run.model_copy(update={"training": shorter})


def _paths(root: Root, kind: str, id: str) -> list[str]:
    """Return what goes in which order, so that after a kill it is there, or is nothing."""
    place = f"{kind}/{id}"
    if set(holders(root).live) - {place}:
        # Whoever came meanwhile may read it.
        return []
    if kind == "caches":
        # Rows tell nothing without the record, and commits nothing without rows.
        rows = [path for path in root.list(f"{place}/rows") if path.endswith(".json")]
        newest_first = sorted(rows, key=lambda path: path.rsplit("/", 1)[-1], reverse=True)
        return [f"{place}/commits", *newest_first, f"{place}/rows", place]
    paths = [f"{place}/{RECORD}", place]
    return [*paths, f"{BOARDS}/{id}"] if kind == "students" else paths


@dataclass
class _Things:
    """What there is, and what each thing names."""

    root: Root
    _records: dict[Place, Any] = field(default_factory=dict)

    @cached_property
    def ids(self) -> dict[str, list[str]]:
        """By kind; a student in training too."""
        return {
            kind: [id for id in self.root.folders(kind) if self._counts(kind, id)]
            for kind in _KINDS
        }

    def needed(self, seeds: set[str]) -> set[Place]:
        """Return the seeds, what they name, and what was measured and made of their students."""
        places = {(kind, id) for kind in _KINDS for id in self.ids[kind]}
        found = self._closed(place for place in places if place[1] in seeds)
        students = {id for kind, id in found if kind == "students"}
        return self._closed(
            {*found, *(place for place in places if self._belongs(place, students))}
        )

    def _belongs(self, place: Place, students: set[str]) -> bool:
        """Whether something is about students that stay: a sweep, where all of them do."""
        named = self._names(place) & set(self.ids["students"])
        if place[0] == "sweeps":
            return named <= students
        return place[0] in ("exports", "evaluations", "caches") and bool(named & students)

    def _closed(self, places: Iterable[Place]) -> set[Place]:
        found, todo = set(), list(places)
        while todo:
            place = todo.pop()
            if place in found:
                continue
            found.add(place)
            # A sweep stays for its students' sake, not the other way round.
            if place[0] != "sweeps":
                names = self._names(place)
                todo += [(kind, id) for kind in _KINDS[1:] for id in self.ids[kind] if id in names]
        return found

    def _counts(self, kind: str, id: str) -> bool:
        is_begun = kind == "students" and self.root.exists(checkpoint_folder(id))
        return is_begun or self._record(kind, id) is not None

    def _names(self, place: Place) -> set[str]:
        if place not in self._records:
            self._records[place] = texts(self._record(*place))
        found: set[str] = self._records[place]
        return found

    def _record(self, kind: str, id: str) -> Any:
        path = f"{kind}/{id}/{RECORD}"
        data = self.root.read_or_none(path)
        if data is None and kind == "caches":
            data = self.root.read_or_none(f"{kind}/{id}/record-copy.json")
        return None if data is None else parse_record(data, f"{self.root.url}/{path}")
