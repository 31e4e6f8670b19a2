"""What a student should not be used for, as far as its own measures tell."""

from collections.abc import Mapping

# Below it, less than a quarter of the variance of the teacher's cosines is kept.
_ANGLES_KEPT = 0.5
_MISSED = 0.05


def limits(metrics: Mapping[str, float]) -> list[str]:
    """Say in words what a student lacks on photos that it never saw.

    Args:
        metrics: of an evaluation, by ``student/dataset/metric``.
    """
    found = []
    if (explained := metrics.get("student/test/r2_to_mapped")) is not None:
        found.append(
            f"It explains {explained:.0%} of the variance of the teacher's mapped embeddings on "
            "unseen photos (constant answer: 0%)."
        )
    if (first := metrics.get("student/test/same_photo_at_1")) is not None:
        found.append(
            f"Asked with an unseen photo, an index of the teacher's embeddings gives that photo "
            f"first in {first:.0%} of the cases: it is no substitute for the teacher where the "
            "very same photo must be found."
            if first < 1 - _MISSED
            else f"Asked with an unseen photo, an index of the teacher's embeddings gives that "
            f"photo first in {first:.0%} of the cases."
        )
    sets = [
        name.split("/")[1]
        for name in metrics
        if name.startswith("student/") and name.endswith("/fpr95")
    ]
    for name in sets:
        missed = metrics[f"student/{name}/fpr95"]
        if missed > _MISSED:
            found.append(f"With 95% of the usual photos let pass, {missed:.0%} of {name} pass too.")
        kept = metrics.get(f"student/{name}/pairwise_pearson", 1.0)
        if kept < _ANGLES_KEPT:
            found.append(
                f"Among photos of {name} it does not keep the teacher's angles (Pearson "
                f"{kept:.2f}): it tells them from the others, but not from each other."
                if missed <= _MISSED
                else f"Among photos of {name} it does not keep the teacher's angles (Pearson "
                f"{kept:.2f})."
            )
    return found
