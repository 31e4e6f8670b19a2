"""What an evaluation measures, known before it runs."""

import difflib
from collections.abc import Iterable

from flows.config import RunConfig

_TO_MAPPED = ("cosine_to_mapped", "cosine_to_mapped_p5")
_ANGLES = ("pairwise_pearson", "pairwise_spearman", "cka_linear", "neighbour_overlap_10")
_STRANGENESS = ("auroc", "fpr95", "fpr95_openood")
NEED_LABELS = ("knn", "knn_agreement")


def known_metrics(
    objective: str, ood: Iterable[str] = (), teachers: Iterable[str] = ()
) -> list[str]:
    """Return what an evaluation measures, as subject/set/name.

    Those in NEED_LABELS are measured where every photo has a label, and neighbours are counted
    among 10 where there are as many test photos.

    Args:
        objective: the student's.
        ood: names of the out-of-distribution sets.
        teachers: names of the teachers, where there are several.
    """
    heads = {"proteus": ["head"], "linear-cosine": ["head"]}.get(objective, [])
    seen_through = {"student": _TO_MAPPED if objective == "tintem" else (), "head": _TO_MAPPED}
    ood = tuple(ood)
    found = []
    for subject in ("student", *heads):
        for name in ("test", *ood):
            found += [f"{subject}/{name}/{m}" for m in (*seen_through[subject], *_ANGLES)]
        found += [f"{subject}/test/{m}" for m in NEED_LABELS]
        for name in ood:
            found += [f"{subject}/{name}/{m}" for m in (*_STRANGENESS, "ood_rank_correlation")]
    found += ["teacher/test/knn"]
    found += [f"teacher/{name}/{m}" for name in ood for m in _STRANGENESS]
    for teacher in teachers:
        found += [f"student against {teacher}/{name}/{m}" for name in ("test", *ood)
                  for m in _ANGLES]  # fmt: skip
    return found


def closest_first(known: Iterable[str], wanted: str) -> list[str]:
    """Sort names by how much they are like the one that was wanted."""

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, name, wanted).ratio()

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
