"""What exists under a root, finished or on its way."""

import json
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from storage.cache import FeatureCache
from storage.catalogue import list_things
from storage.root import Root, open_root
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
            for thing in list_things(root, kind)
        ]
    finished = {thing["id"] for thing in things["students"]}
    for student_id in root.folders("students"):
        if student_id not in finished:
            things["students"].append(_unfinished_student(root, student_id))
    return things


def open_existing(root_or_config: str) -> Root:
    """Open a root that is there, or that of a run's YAML file.

    Raises:
        InputError: if there is no such root, or the config cannot be read.
    """
    if root_or_config.endswith((".yaml", ".yml")):
        from flows.config import load_config

        root_or_config = load_config(root_or_config).root
    if "://" not in root_or_config and not Path(root_or_config).is_dir():
        raise InputError(f"there is no folder {root_or_config}: give a run's config or its root.")
    return open_root(root_or_config)


def _cache(root: Root, cache_id: str) -> Thing:
    stats = FeatureCache.open(root, cache_id).stats()
    shards = stats["shards"] + stats["pending"]
    return {
        "id": cache_id,
        "bytes": root.size(f"caches/{cache_id}"),
        "progress": stats["shards"] / shards if shards else 0.0,
        "metrics": {"photos": stats["rows"], "shards": stats["shards"]},
    }


def _unfinished_student(root: Root, student_id: str) -> Thing:
    folder = f"students/{student_id}"
    state = json.loads(root.read_or_none(f"{folder}/progress.json") or b'{"step": 0, "total": 1}')
    return {
        "id": student_id,
        "bytes": root.size(folder),
        "progress": state["step"] / state["total"],
        "metrics": {},
    }


def tables(things: dict[str, list[Thing]]) -> list[Table]:
    """Lay the stored things out for a terminal, one table per kind that exists."""
    return [_table(kind, found) for kind, found in things.items() if found]


def _table(kind: str, found: list[Thing]) -> Table:
    shown = _SHOWN.get(kind, {"photos": "photos", "shards": "shards"})
    table = Table(box=None, pad_edge=False, title=kind, title_justify="left", title_style="bold")
    table.add_column("id", style="cyan", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("done", justify="right")
    for title in shown.values():
        table.add_column(title, justify="right")
    for thing in found:
        values = (thing["metrics"].get(name) for name in shown)
        cells = [
            "–" if v is None else f"{v:,}" if isinstance(v, int) else f"{v:.3f}" for v in values
        ]
        table.add_row(thing["id"], decimal(thing["bytes"]), f"{thing['progress']:.0%}", *cells)
    return table
