"""Are the caches sound, and do they still tell the truth? And: bring damaged shards back."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from flows.config.load import load_config
from flows.config.run import RunConfig
from flows.data.dataset import Dataset
from flows.data.rendering import ViewSource
from flows.maintenance.status import cache_stats, open_existing
from flows.maintenance.things import Problem
from flows.stages.cache_checks import Truth, measure_truth
from flows.stages.cache_requests import CacheRequest, requested_caches
from flows.stages.ensure import exclusive
from flows.stages.extract import ensure
from flows.stages.index import index
from flows.stages.map import through_mapping
from flows.stages.models import known_teacher
from flows.stages.shards import source_of
from flows.stages.tokens import known_mapped_tokens
from storage.artifacts import read_record
from storage.cache import FeatureCache
from storage.errors import (
    CacheFormatError,
    CorruptError,
    MissingObjectError,
    SourceError,
    StorageInputError,
    UnreachableError,
)
from storage.images import Manifest
from storage.root import Root
from tintem_core.errors import InputError

# Photos tried for each one that the truth test wants, before the rest are given up.
_DRAWS = 8


@dataclass(frozen=True)
class Verdict:
    """What was found out about one cache."""

    id: str
    photos: int = 0
    shards: int = 0
    pending: int = 0
    problems: tuple[Problem, ...] = ()
    truth: Truth | None = None
    note: str = ""
    unreadable: str = ""
    """Why nothing can be said about the cache, and what to do."""

    @property
    def sound(self) -> bool:
        if self.problems or self.unreadable:
            return False
        return self.truth is None or self.truth.holds

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "sound": self.sound}


@dataclass(frozen=True)
class Repaired:
    """What a repair did to one cache."""

    id: str
    withdrawn: tuple[int, ...]
    recomputed: int | None
    """Shards computed again; None where no config says how."""
    missing: int = 0
    """Photos of the run that the cache lacks afterwards."""
    unreadable: str = ""
    """Why nothing can be repaired, and what to do."""


def verify(target: str, cache_id: str | None = None) -> list[Verdict]:
    """Read every byte of the caches; with a config, run the teacher again on some views too.

    Args:
        target: a root (all of its caches), or a run's YAML file (the caches of the run).
        cache_id: this one only.

    Raises:
        InputError: if there is no such root, config or cache.
    """
    root, config, wanted = targets(target, cache_id)
    return [_verdict(root, config, cache, want) for cache, want in wanted.items()]


def repair(target: str, cache_id: str | None = None) -> list[Repaired]:
    """Withdraw damaged shards; with a config, compute exactly them again.

    Raises:
        InputError: if there is no such root, config or cache.
    """
    root, config, wanted = targets(target, cache_id)
    indexed = None
    done = []
    for cache_id, want in wanted.items():
        try:
            cache = FeatureCache.open(root, cache_id)
        except MissingObjectError:
            continue
        except (CorruptError, CacheFormatError) as error:
            done.append(Repaired(cache_id, (), None, unreadable=str(error)))
            continue
        with exclusive(root, f"caches/{cache_id}"):
            dropped = tuple(cache.repair())
        if config is None or want is None:
            done.append(Repaired(cache_id, dropped, None))
            continue
        indexed = indexed or index(config, root)
        recomputed = ensure(config, root, want, indexed, dropped) if dropped else 0
        missing = cache.missing(indexed.dataset(want.source.name).keys(want.split))
        done.append(Repaired(cache_id, dropped, recomputed, len(missing)))
    return done


def targets(
    target: str, cache_id: str | None
) -> tuple[Root, RunConfig | None, dict[str, CacheRequest | None]]:
    """Return the root, the config where there is one, and the caches meant, by id.

    Raises:
        InputError: if there is no such root, config or cache.
    """
    root = open_existing(target)
    config = None
    wanted: dict[str, CacheRequest | None] = {}
    if target.endswith((".yaml", ".yml")):
        config = load_config(target)
        teachers = [known_teacher(each, config.runtime.device) for each in config.teachers]
        wanted = {
            want.spec.id: want for teacher in teachers for want in requested_caches(config, teacher)
        }
        wanted |= {w.spec.id: w for w in known_mapped_tokens(config, root, teachers[0])}
    else:
        wanted = dict.fromkeys(root.folders("caches"))
    if cache_id is None:
        return root, config, wanted
    if cache_id not in root.folders("caches"):
        raise InputError(f"{root.url} holds no cache {cache_id}: `tintem status` lists them.")
    return root, config, {cache_id: wanted.get(cache_id)}


def _verdict(
    root: Root, config: RunConfig | None, cache_id: str, want: CacheRequest | None
) -> Verdict:
    try:
        cache = FeatureCache.open(root, cache_id)
    except MissingObjectError:
        return Verdict(cache_id, note="not extracted yet")
    except (CorruptError, CacheFormatError) as error:
        return Verdict(cache_id, unreadable=str(error))
    problems = tuple(Problem(p.shard, p.file, p.reason) for p in cache.verify())
    try:
        stats = cache_stats(root, cache)
    except CorruptError:
        return Verdict(cache_id, problems=problems)
    verdict = Verdict(cache_id, stats["rows"], stats["shards"], stats["pending"], problems)
    if problems:
        return replace(verdict, note="no truth test before the repair" if want else "")
    if config is None or want is None:
        return verdict
    return _with_truth(root, config, cache, want, verdict)


def _with_truth(
    root: Root, config: RunConfig, cache: FeatureCache, want: CacheRequest, verdict: Verdict
) -> Verdict:
    manifest = Manifest.latest(root, want.source.name)
    if manifest is None:
        return replace(verdict, note="no truth test: the photos are not indexed")
    # Only those that are in the cache.
    dataset = Dataset(manifest)
    dataset = dataset.without(cache.missing(dataset.keys(want.split)))
    if not dataset.keys(want.split):
        return replace(verdict, note="no truth test: the cache is empty")
    try:
        source = source_of(config, dataset, want)
        source, lost = _still_there(source, want.teacher.image_size, config.cache.truth_images)
    except (SourceError, UnreachableError) as error:
        return replace(verdict, note=f"the teacher could not be asked again: {error}")
    if lost:
        drawn = lost + len(source.keys)
        note = f"{lost} of {drawn} photos drawn are gone or changed since they were indexed"
        verdict = replace(verdict, note=note)
    if not source.keys:
        return replace(verdict, note=f"the teacher could not be asked again: {verdict.note}")
    through = None
    if want.mapping is not None:
        try:
            if read_record(root, "mappings", want.mapping) is None:
                return replace(verdict, note="no truth test: the mapping is gone")
            through = through_mapping(config, root, want.mapping)
        except CorruptError as error:
            file = f"mappings/{want.mapping}"
            return replace(verdict, problems=(Problem(None, file, str(error)),))
    truth = measure_truth(config, cache, source, teacher=want.teacher, through=through)
    return replace(verdict, truth=truth)


def _still_there(source: ViewSource, size: int, count: int) -> tuple[ViewSource, int]:
    """Draw photos that are as they were indexed; return them, and how many drawn were not."""
    rows, lost = [], 0
    for row in np.random.default_rng().permutation(len(source.keys))[: count * _DRAWS]:
        try:
            source.views(row, range(1), size)
        except (InputError, StorageInputError, MissingObjectError):
            lost += 1
        else:
            rows.append(row)
        if len(rows) == count:
            break
    keys, uris = ([column[row] for row in rows] for column in (source.keys, source.uris))
    return replace(source, keys=keys, uris=uris), lost
