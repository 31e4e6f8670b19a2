"""What an evaluation measures, known before it runs."""

import difflib
from collections.abc import Iterable

from flows.config import RunConfig

ALL = "all"
"""The test photos and those of every OOD set together."""
_CONSTANT = ("cosine_to_mapped", "r2_to_mapped")
_TO_MAPPED = (
    "cosine_to_mapped",
    "cosine_to_mapped_p5",
    "r2_to_mapped",
    "centred_cosine_to_mapped",
)
_SHARED = ("same_photo_at_1", "same_photo_at_10", "shared_overlap_10", "shared_knn")
_ANGLES = ("pairwise_pearson", "pairwise_spearman", "cka_linear", "neighbour_overlap_10")
_STRANGENESS = ("auroc", "fpr95", "fpr95_openood")
_KNN = ("knn", "knn_agreement")
NEED_LABELS = (*_KNN, "shared_knn")


def known_metrics(
    objective: str, ood: Iterable[str] = (), teachers: Iterable[str] = ()
) -> list[str]:
    """Return what an evaluation measures, as subject/set/name.

    Those in NEED_LABELS are measured over the photos that have a label, and what is found among 10
    where there are more test photos than that.

    Args:
        objective: the student's.
        ood: names of the out-of-distribution sets.
        teachers: names of the teachers, where there are several.
    """
    # Who answers in a space of the teacher's: the student itself, or a baseline's training head.
    asked = {"tintem": "student", "proteus": "head", "linear-cosine": "head"}.get(objective)
    ood = tuple(ood)
    found = []
    for subject in dict.fromkeys(["student", asked or "student"]):
        for name in ("test", *ood):
            to_mapped = _TO_MAPPED if subject == asked else ()
            found += [f"{subject}/{name}/{m}" for m in (*to_mapped, *_ANGLES)]
        found += [f"{subject}/test/{m}" for m in _KNN]
        found += [f"{subject}/{ALL}/pairwise_pearson"] if ood else []
        for name in ood:
            found += [f"{subject}/{name}/{m}" for m in (*_STRANGENESS, "ood_rank_correlation")]
    if asked is not None:
        found += [f"{asked}/test/{m}" for m in _SHARED]
        found += [f"constant/{name}/{m}" for name in ("test", *ood) for m in _CONSTANT]
    found += ["teacher/test/knn"]
    found += [f"teacher/{name}/{m}" for name in ood for m in _STRANGENESS]
    for teacher in teachers:
        found += [f"student against {teacher}/{name}/{m}" for name in ("test", *ood)
                  for m in _ANGLES]  # fmt: skip
    return found


def closest_first(known: Iterable[str], wanted: str) -> list[str]:
    """Sort names by how much they are like the one that was wanted; last what is no student's."""

    def likeness(name: str) -> tuple[bool, float]:
        ratio = difflib.SequenceMatcher(None, name, wanted).ratio()
        return not name.startswith("constant/"), ratio

    return sorted(known, key=likeness, reverse=True)


def metrics_of(config: RunConfig) -> list[str]:
    """Return what the evaluation of a run measures."""
    models = [teacher.model for teacher in config.teachers] if config.other_teachers else []
    names = [
        model + (f" ({number + 1})" if models.count(model) > 1 else "")
        for number, model in enumerate(models)
    ]
    ood = [source.name for source in config.evaluation.ood]
    return known_metrics(config.training.objective, ood, names)
