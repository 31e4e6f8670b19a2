"""A student's run of tonight: on the night's photos, with what it keeps of the latest."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.config.retraining import GateConfig
from flows.config.run import CacheConfig, RunConfig
from flows.config.variants import keeps_mapping
from flows.data.features import evaluation_latents
from flows.reporting.measures import label_of
from flows.retraining.changes import TEACHERS, Changes, ModelLine
from flows.stages.exchange import exchange_rows, recorded
from flows.stages.ids import mapping_spec, mapping_width
from flows.stages.map import apply, load_mapping
from flows.stages.measure import as_rows
from flows.stages.models import TENSORS
from flows.stages.pipeline import Pipeline
from flows.stages.results import Mapped
from storage.artifacts import read_file, read_record
from storage.versions import Model, Version
from tintem_core.evaluation.metrics import EXCHANGE
from tintem_core.evaluation.pairs import angle_preservation
from tintem_core.mapping.config import MappingConfig

_OTHER = {
    "cache": "other features of the teacher",
    "others": "other features of the further teachers",
    "width": "another width",
}


@dataclass(frozen=True)
class Candidate:
    """How a student is made tonight."""

    pipeline: Pipeline
    mapping: dict[str, Any]
    """Whether the latest's mapping is kept, why not, and what it still keeps of the angles."""
    warm_start: dict[str, Any]
    """Whether the latest's weights are gone on from, and why not."""


def prepare(night: Pipeline, line: ModelLine, news: Changes, folder: Path) -> Candidate:
    """Set up the run of a student.

    Args:
        night: the night's own run, with photos and caches done.
        line: the student.
        news: what is new to it.
        folder: where weights are put that are not in a local root.
    """
    pipeline = _on_the_same_photos(night, line.config)
    kept, why = _kept_mapping(pipeline, line)
    mapping: dict[str, Any] = {"kept": kept is not None, "why": why}
    if kept is not None:
        pipeline.mapped = kept
        mapping |= {
            "pearson_then": kept.record["metrics"]["pairwise_pearson"],
            "pearson_now": _angles_kept(pipeline, kept),
        }
    weights, cold = _latest_weights(pipeline, line, kept, news, folder)
    if weights is not None:
        start = {"weights": str(weights), "partial_weights": False, "pretrained": False}
        pipeline.config = line.config.model_copy(
            update={"student": line.config.student.model_copy(update=start)}
        )
    return Candidate(pipeline, mapping, {"done": weights is not None, "why": cold})


def latest_pipeline(night: Pipeline, config: RunConfig, model: Model) -> Pipeline:
    """Return the run of a finished student, to be measured on tonight's photos.

    It is described by its own records, whatever the config says meanwhile.

    Raises:
        MissingObjectError: if it is not in the root any more.
    """
    then, mapped, trained = recorded(config, night.root, model.student, model.mapping)
    pipeline = _on_the_same_photos(night, then)
    pipeline.mapped, pipeline.trained = mapped, trained
    return pipeline


def measured_for(
    gates: Iterable[GateConfig], pipeline: Pipeline, latest: Version | None
) -> dict[str, float]:
    """Return a student's numbers, with those that gates ask of the index of the one in force.

    Args:
        latest: the student in force, if there is one. It is asked where the config names no index;
            where the two share no space, its numbers are missing.
    """
    metrics = dict(pipeline.evaluated.record["metrics"])
    config = pipeline.config
    asked = any(gate.metric.startswith(f"{EXCHANGE}/") for gate in gates)
    if not asked or latest is None or config.evaluation.index is not None:
        return metrics
    found = exchange_rows(
        config,
        pipeline.root,
        pipeline.indexed.measured.data,
        pipeline.extracted,
        pipeline.mapped,
        pipeline.trained,
        latest.model.student,
    )
    return metrics | {label_of(row): row["value"] for row in as_rows(found)}


def incomparable(line: ModelLine, news: Changes) -> str:
    """Say why tonight's student cannot be compared with the latest; empty where it can."""
    if line.latest is None:
        return "there is no latest to compare with"
    now, then = line.settings, line.latest.model.settings
    if any(now[name] != then[name] for name in TEACHERS):
        return "the latest learned from another teacher"
    if "python" in then["student"] and _code(then) != _code(now):
        return "the latest was another function, or other code"
    if news.learned_and_tested:
        return (
            f"the latest learned from {news.learned_and_tested} of tonight's test photos: the "
            "splits are others than then"
        )
    return ""


def _code(settings: dict[str, Any]) -> tuple[str | None, ...]:
    return tuple(settings["student"].get(name) for name in ("python", "code"))


def _on_the_same_photos(night: Pipeline, config: RunConfig) -> Pipeline:
    pipeline = Pipeline(config)
    pipeline.root = night.root
    pipeline.indexed = night.indexed
    pipeline.extracted = night.extracted
    return pipeline


def _kept_mapping(pipeline: Pipeline, line: ModelLine) -> tuple[Mapped | None, str]:
    if not keeps_mapping(line.config):
        is_off = not line.config.nightly.keep_mapping
        return None, "nightly.keep_mapping is off" if is_off else "mapping.fit is joint"
    if line.latest is None:
        return None, "there is no latest yet"
    mapping_id = line.latest.model.mapping
    record = read_record(pipeline.root, "mappings", mapping_id)
    if record is None:
        return None, f"{mapping_id} is not there any more"
    config, data = line.config, pipeline.indexed.data
    wanted = mapping_spec(config, pipeline.extracted.identity(), data, mapping_width(config))
    others = [words for name, words in _OTHER.items() if wanted[name] != record["spec"][name]]
    if _fitting(line.settings) != _fitting(line.latest.model.settings):
        others.append("other settings")
    if others:
        return None, f"the latest's was fitted with {' and '.join(others)}"
    return Mapped(id=mapping_id, record=record, reused=True), ""


def _fitting(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what a mapping is fitted with, however many photos there are that night."""
    mapping = MappingConfig.model_validate(settings["mapping"])
    cache = CacheConfig.model_validate(settings["cache"])
    return mapping.identity(sys.maxsize, tokens=cache.full_tokens)


def _angles_kept(pipeline: Pipeline, mapped: Mapped) -> float:
    """Pearson of the pairwise cosines of tonight's test photos, mapped against unmapped."""
    latents = evaluation_latents(pipeline.root, pipeline.extracted, pipeline.indexed.data, "test")
    mapping = load_mapping(pipeline.config, pipeline.root, mapped)
    return angle_preservation(latents, apply(mapping, latents))["pairwise_pearson"]


def _latest_weights(
    pipeline: Pipeline, line: ModelLine, kept: Mapped | None, news: Changes, folder: Path
) -> tuple[Path | None, str]:
    """Return the file of weights to go on from; None, and why, where training starts afresh."""
    if not line.config.nightly.warm_start:
        return None, "nightly.warm_start is off"
    if line.latest is None:
        return None, "there is no latest yet"
    if kept is None:
        return None, "the latest's mapping is not kept"
    if why := incomparable(line, news):
        return None, why
    student_id, root = line.latest.model.student, pipeline.root
    then, now = line.latest.model.settings["student"], line.settings["student"]
    if any(
        then.get(name) != now.get(name)
        for name in ("model", "python", "image_size", "options", "stages")
    ):
        return None, "the latest is another model"
    # Read even where it lies in a folder, so that damaged weights are not gone on from.
    weights = read_file(root, "students", student_id, TENSORS)
    path = root.path(f"students/{student_id}/{TENSORS}")
    if path is None:
        path = folder / f"{student_id}.safetensors"
        path.write_bytes(weights)
    return path, ""
