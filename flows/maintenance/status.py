"""What exists under a root, finished or on its way."""

from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from flows.data.caches import fragmented
from flows.data.progress import read_progress
from storage.artifacts import broken_artifacts, list_artifacts
from storage.cache import FeatureCache
from storage.errors import CacheFormatError, CorruptError, MissingObjectError
from storage.images import Manifest
from storage.registry import current_version
from storage.root import Root, open_root
from storage.versions import model_names
from tintem_core.errors import InputError

Thing = dict[str, Any]
# The metrics that a line of the table has room for, by kind.
_SHOWN = {
    "mappings": {
        "pairwise_pearson": "angles kept (Pearson)",
        "neighbour_overlap_10": "neighbours kept",
    },
    "students": {"final_loss": "final loss"},
    "evaluations": {
        "student/test/pairwise_pearson": "faithful (Pearson)",
        "student/test/knn": "kNN",
    },
    "exports": {"student/test/pairwise_pearson": "faithful (Pearson)"},
}
_COLUMNS = {
    "caches": {"photos": "photos", "shards": "shards"},
    "latest": {"student": "in force", "since": "since (UTC)"},
}
_MOST_UNFINISHED = 0.99


def collect(root_or_config: str) -> dict[str, list[Thing]]:
    """Return every stored thing by kind: id, bytes, progress (0..1), metrics, creation time.

    Args:
        root_or_config: a root (folder or URL), or a run's YAML file.

    Raises:
        InputError: if there is no such root, or the config cannot be read.
    """
    root = open_existing(root_or_config)
    things: dict[str, list[Thing]] = {"caches": [_cache(root, i) for i in root.folders("caches")]}
    for kind in _SHOWN:
        things[kind] = [
            {
                "id": thing.id,
                "created": thing.created,
                "bytes": root.size(f"{kind}/{thing.id}"),
                "progress": 1.0,
                "metrics": thing.record.get("metrics", {}),
            }
            for thing in list_artifacts(root, kind)
        ]
        for id, hint in broken_artifacts(root, kind).items():
            things[kind].append({**_empty(root, kind, id), "hint": hint})
    known = {thing["id"] for thing in things["students"]}
    for student in root.folders("students"):
        if student not in known:
            # A student counts as done with its record, not with its last step.
            done = min(read_progress(root, student) or 0.0, _MOST_UNFINISHED)
            things["students"].append({**_empty(root, "students", student), "progress": done})
    things["latest"] = [_latest(root, line) for line in model_names(root)]
    return things


def open_existing(root_or_config: str) -> Root:
    """Open a root that is there, or that of a run's YAML file.

    Raises:
        InputError: if there is no such root, or the config cannot be read.
    """
    if root_or_config.endswith((".yaml", ".yml")):
        from flows.config.load import load_config
        from flows.data.root import run_root

        config = load_config(root_or_config)
        if not _is_missing(config.root):
            return run_root(config)
        root_or_config = config.root
    if _is_missing(root_or_config):
        raise InputError(f"there is no folder {root_or_config}: give a run's config or its root.")
    return open_root(root_or_config)


def _is_missing(root: str) -> bool:
    return "://" not in root and not Path(root).is_dir()


def cache_stats(root: Root, cache: FeatureCache) -> dict[str, Any]:
    """Return what a cache holds; what waits for images that are gone by now is not pending."""
    stats = cache.stats()
    if stats["pending"]:
        manifest = Manifest.latest(root, cache.spec.content.get("dataset", ""))
        if manifest is not None:
            stats = cache.stats(manifest.table["key"])
    return stats


def _cache(root: Root, cache_id: str) -> Thing:
    thing = _empty(root, "caches", cache_id)
    try:
        cache = FeatureCache.open(root, cache_id)
        stats, hint = cache_stats(root, cache), fragmented(cache)
    except (CorruptError, CacheFormatError, MissingObjectError) as error:
        return {**thing, "hint": str(error)}
    shards = stats["shards"] + stats["pending"]
    return {
        **thing,
        "progress": stats["shards"] / shards if shards else 0.0,
        "metrics": {"photos": stats["rows"], "shards": stats["shards"]},
        "hint": hint and f"{cache_id} is {hint}",
    }


def _empty(root: Root, kind: str, id: str) -> Thing:
    return {"id": id, "bytes": root.size(f"{kind}/{id}"), "progress": 0.0, "metrics": {}}


def _latest(root: Root, line: str) -> Thing:
    thing: Thing = {"id": line, "bytes": 0, "progress": 0.0, "metrics": {}}
    try:
        entry = current_version(root, line)
    except CorruptError as error:
        return {**thing, "hint": str(error)}
    if entry is None:
        return thing
    if root.size(entry.model.onnx) != entry.model.bytes:
        return {**thing, "hint": f"the model in force as {line} is not whole: {entry.model.onnx}"}
    metrics = {
        "student": entry.model.student,
        "since": entry.since[:16].replace("T", " "),
        **entry.model.metrics,
    }
    return {**thing, "bytes": entry.model.bytes, "progress": 1.0, "metrics": metrics}


def tables(things: dict[str, list[Thing]]) -> list[Table]:
    """Lay the stored things out for a terminal, one table per kind that exists."""
    return [_table(kind, found) for kind, found in things.items() if found]


def hints(things: dict[str, list[Thing]]) -> list[str]:
    """Return a sentence for everything that could be better."""
    if not any(things.values()):
        return ["nothing is here yet: `tintem run CONFIG.yaml` fills it"]
    return [thing["hint"] for found in things.values() for thing in found if thing.get("hint")]


def _table(kind: str, found: list[Thing]) -> Table:
    shown = _SHOWN.get(kind) or _COLUMNS[kind]
    table = Table(box=None, pad_edge=False, title=kind, title_justify="left", title_style="bold")
    # An id that is broken into two lines cannot be copied: the other columns give way.
    table.add_column("id", style="cyan", no_wrap=True, overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("done", justify="right")
    for title in shown.values():
        table.add_column(title, justify="right", overflow="fold")
    for thing in found:
        values = (thing["metrics"].get(name) for name in shown)
        cells = [_cell(value) for value in values]
        table.add_row(thing["id"], decimal(thing["bytes"]), f"{thing['progress']:.0%}", *cells)
    return table


def _cell(value: str | int | float | None) -> str:
    match value:
        case None:
            return "–"
        case float():
            return f"{value:.3f}"
        case int():
            return f"{value:,}"
        case _:
            return value
