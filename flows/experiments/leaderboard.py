"""Which student is best: read from the records of a root, comparing only what can be compared.

Students compare where the same photos were tested against embeddings of the same teacher, by the
same questions; every other measurement has a table of its own.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import polars as pl

from flows.config.sweep import DEFAULT_METRIC
from flows.data.progress import read_progress
from flows.experiments.names import Name, names
from flows.experiments.record import Entry, read_sweeps
from flows.experiments.standings import SCHEMA, Group, Leaderboard, Reference, on_front
from flows.reporting.measures import label_of
from flows.stages.peers import questions
from storage.artifacts import broken_artifacts, list_artifacts
from storage.cache import FeatureCache
from storage.errors import StorageError
from storage.root import Root
from tintem_core.errors import InputError
from tintem_core.evaluation.metrics import metric_of

Record = dict[str, Any]


def leaderboard(
    root: Root, metric: str = DEFAULT_METRIC, students: Collection[str] | None = None
) -> Leaderboard:
    """Read what was measured, and rank it.

    Args:
        metric: subject/dataset/name, as an evaluation's record has it.
        students: ids; None: all.

    Raises:
        InputError: if no evaluation there is has such a metric.
    """
    sweeps = read_sweeps(root)
    swept = [Entry(**entry) for record in sweeps for entry in record["students"]]
    trained = {thing.id: thing.record for thing in list_artifacts(root, "students")}
    mappings = {thing.id: thing.record["spec"] for thing in list_artifacts(root, "mappings")}
    called = names({id: record["spec"] for id, record in trained.items()}, mappings, swept)
    exports = {
        (thing.record["spec"]["student"], thing.record["spec"]["evaluation"]): thing.record
        for thing in list_artifacts(root, "exports")
    }
    # By what they compare in, and then by student: the newest evaluation counts.
    comparable: dict[str, dict[str, Record]] = {}
    for thing in list_artifacts(root, "evaluations"):
        student = thing.record["spec"]["student"]
        if student in trained and (students is None or student in students):
            comparable.setdefault(questions(thing.record, metric), {})[student] = thing.record
    _refuse_unknown(metric, comparable)
    failed = {entry.student: entry.failed for entry in reversed(swept)}
    groups = []
    for found in comparable.values():
        if not any(metric in record["metrics"] for record in found.values()):
            continue
        lines = [
            _line(
                called[id],
                trained[id],
                record,
                exports.get((id, record["id"])),
                metric,
                failed.get(id),
            )
            for id, record in found.items()
        ]
        groups.append(_group(root, list(found.values()), lines, exports, metric))
    evaluated = {student for found in comparable.values() for student in found}
    return Leaderboard(
        tuple(sorted(groups, key=lambda group: (group.data, -group.table.height))),
        tuple(_unfinished(root, trained, called, swept, evaluated, students)),
        crowded=any(record["at_once"] > 1 for record in sweeps),
    )


def _refuse_unknown(metric: str, comparable: Mapping[str, Mapping[str, Record]]) -> None:
    known = {
        label
        for found in comparable.values()
        for record in found.values()
        for label in record["metrics"]
        if not label.startswith(("teacher/", "constant/"))
    }
    if known and metric not in known:
        asked = metric.rpartition("/")[2]

        def distance(label: str) -> tuple[float, bool, str]:
            alike = SequenceMatcher(None, asked, label.rpartition("/")[2]).ratio()
            return -alike, not label.startswith("student/test/"), label

        raise InputError(
            f"no student was measured by '{metric}'; the nearest of {len(known)} metrics are "
            f"{', '.join(sorted(known, key=distance)[:3])}."
        )


def _line(
    name: Name,
    student: Record,
    evaluation: Record,
    export: Record | None,
    metric: str,
    failed: str | None,
) -> Record:
    rows = _rows(evaluation)
    value = rows.get(metric, {})
    without_export = "evaluated" if failed is None else f"failed: {failed}"
    line = {
        "name": name.name,
        "variant": name.variant,
        "status": without_export if export is None else "done",
        "parameters": student["parameters"],
        "onnx_bytes": None if export is None else export["model"]["bytes"],
        "latency_ms": None if export is None else export["latency_ms"]["student_onnx"],
        **{part: value.get(part) for part in ("value", "low", "high")},
        "knn": evaluation["metrics"].get("student/test/knn"),
        "student": student["id"],
        "evaluation": evaluation["id"],
        "export": None if export is None else export["id"],
        "measured_on": None if export is None else _machine(export),
    }
    for dataset in _ood(evaluation):
        line[f"auroc/{dataset}"] = evaluation["metrics"].get(f"student/{dataset}/auroc")
    return line


def _rows(evaluation: Record) -> dict[str, Record]:
    return {label_of(row): row for row in evaluation["rows"]}


def _ood(evaluation: Record) -> list[str]:
    """Name the OOD sets: every dataset but the first, from which the test photos are."""
    return list(evaluation["spec"]["images"])[1:]


def _machine(export: Record) -> str:
    made = export["provenance"]
    return json.dumps([made["machine"], made["cores"], made["gpu"]])


def _group(
    root: Root,
    evaluations: Sequence[Record],
    lines: Sequence[Record],
    exports: Mapping[tuple[str, str], Record],
    metric: str,
) -> Group:
    first = evaluations[0]
    schema = {**SCHEMA, **{f"auroc/{dataset}": pl.Float64 for dataset in _ood(first)}}
    table = (
        pl.DataFrame(lines, schema=schema)
        .sort(
            "value",
            "name",
            descending=[not metric_of(metric).lower_is_better, False],
            nulls_last=True,
        )
        .with_row_index("rank", offset=1)
    )
    table = table.with_columns(on_front(table, metric))
    sizes = [
        exports[key]["teacher_parameters"]
        for key in ((record["spec"]["student"], record["id"]) for record in evaluations)
        if key in exports
    ]
    return Group(
        data=next(iter(first["spec"]["images"])),
        test_photos=first["test_photos"],
        metric=metric,
        teacher=_reference(root, first, sizes[0] if sizes else None, metric),
        table=table,
        measures={record["spec"]["student"]: record["metrics"] for record in evaluations},
    )


def _reference(root: Root, evaluation: Record, parameters: int | None, metric: str) -> Reference:
    caches = evaluation["spec"]["caches"]
    # An evaluation of the first release knew one teacher, and no list.
    first, *others = caches if isinstance(caches, list) else [caches]
    ids = [next(iter(found.values())) for found in (first, *(other[0] for other in others))]
    # A teacher in its own index is the teacher.
    asked = metric.partition("/")[2].replace("/shared_knn", "/knn")
    measured = _rows(evaluation).get(f"teacher/{asked}")
    return Reference(
        name=" + ".join(_model(root, id) for id in ids),
        # An export says how large the first teacher is.
        parameters=None if others else parameters,
        value=1.0 if measured is None else measured["value"],
        low=None if measured is None else measured["low"],
        high=None if measured is None else measured["high"],
        measured=measured is not None,
    )


def _model(root: Root, cache_id: str) -> str:
    try:
        return str(FeatureCache.open(root, cache_id).spec.content["teacher"]["model"])
    except (StorageError, KeyError):
        # The cache may be gone by now; its name begins with the model's.
        return cache_id


def _unfinished(
    root: Root,
    trained: Mapping[str, Record],
    called: Mapping[str, Name],
    swept: Sequence[Entry],
    evaluated: Collection[str],
    students: Collection[str] | None,
) -> list[Record]:
    entries: dict[str, Entry] = {}
    for entry in swept:
        entries.setdefault(entry.student, entry)
    broken = broken_artifacts(root, "students")
    ids = dict.fromkeys([*entries, *root.folders("students")])
    found = []
    for id in ids:
        if id in evaluated or not (students is None or id in students):
            continue
        known = entries.get(id)
        name = called[id].name if id in called else id if known is None else known.name
        if known is not None and known.failed is not None:
            status = f"failed: {known.failed}"
        elif id in broken:
            status = "damaged"
        else:
            status = "trained" if id in trained else _progress(root, id)
        found.append({"name": name, "student": id, "status": status})
    return found


def _progress(root: Root, student: str) -> str:
    done = read_progress(root, student)
    return "not begun" if done is None else f"trained to {done:.0%}"
