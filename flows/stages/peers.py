"""Which students of a root compare: measured on the same photos, by the same questions."""

from typing import Any

from flows.reporting.evidence import Peer
from storage.artifacts import list_artifacts
from storage.identity import digest
from storage.root import Root

Record = dict[str, Any]


def questions(evaluation: Record) -> str:
    """Return the identity of everything that two comparable evaluations have in common."""
    spec = evaluation["spec"]
    asked = {name: value for name, value in spec["settings"].items() if name != "resamples"}
    return digest([spec["caches"], spec["images"], asked])


def peers(root: Root, evaluation: Record, metric: str) -> list[Peer]:
    """Return every exported student that compares with an evaluation's own, that one included.

    Args:
        metric: subject/dataset/name; a student without it is left out.
    """
    asked = questions(evaluation)
    trained = {thing.id: thing.record for thing in list_artifacts(root, "students")}
    latencies = {
        thing.record["spec"]["evaluation"]: thing.record["latency_ms"]["student_onnx"]
        for thing in list_artifacts(root, "exports")
    }
    found = {}
    for thing in list_artifacts(root, "evaluations"):
        student, value = thing.record["spec"]["student"], thing.record["metrics"].get(metric)
        if value is None or student not in trained or questions(thing.record) != asked:
            continue
        found[student] = Peer(
            student,
            trained[student]["name"],
            trained[student]["parameters"],
            latencies.get(thing.id),
            value,
        )
    return list(found.values())
