"""Which students of a root compare: measured on the same photos, by the same questions."""

from typing import Any

from flows.reporting.evidence import Peer
from storage.artifacts import list_artifacts
from storage.identity import digest
from storage.root import Root
from tintem_core.evaluation.metrics import EXCHANGE

Record = dict[str, Any]


def questions(evaluation: Record, metric: str) -> str:
    """Return the identity of everything that two comparable evaluations have in common.

    Args:
        metric: subject/dataset/name of what is compared.
    """
    spec = evaluation["spec"]
    index = spec.get("index") if metric.startswith(f"{EXCHANGE}/") else None
    asked = {name: value for name, value in spec["settings"].items() if name != "resamples"}
    common = [spec["caches"], spec["images"], asked]
    return digest(common if index is None else [*common, index])


def peers(root: Root, evaluation: Record, metric: str) -> list[Peer]:
    """Return every exported student that compares with an evaluation's own, that one included.

    Args:
        metric: subject/dataset/name; a student without it is left out.
    """
    asked = questions(evaluation, metric)
    trained = {thing.id: thing.record for thing in list_artifacts(root, "students")}
    latencies = {
        thing.record["spec"]["evaluation"]: thing.record["latency_ms"]["student_onnx"]
        for thing in list_artifacts(root, "exports")
    }
    found = {}
    for thing in list_artifacts(root, "evaluations"):
        student, value = thing.record["spec"]["student"], thing.record["metrics"].get(metric)
        if value is None or student not in trained or questions(thing.record, metric) != asked:
            continue
        found[student] = Peer(
            student,
            trained[student]["name"],
            trained[student]["parameters"],
            latencies.get(thing.id),
            value,
        )
    return list(found.values())
