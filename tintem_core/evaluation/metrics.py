"""The catalogue: every metric that an evaluation knows, by name."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tintem_core.evaluation.few_shot import SHOTS
from tintem_core.evaluation.ood import SCORES

ALL = "all"
"""The test photos and those of every OOD set together."""
BOUNDS = ("random mapping", "mapped")
"""What a student's angles lie between: the teacher mapped at random, and as it was fitted."""

Measured = Literal[
    "target",
    "angles",
    "shared space",
    "votes",
    "agreement",
    "probes",
    "ood",
    "ood ranks",
    "corruptions",
    "fine-tuning",
    "masks",
]
EXCHANGE = "exchange"
"""The student's queries to the index that another student filled."""
SCRATCH = "from scratch"
"""The student's network, trained on labels alone."""


@dataclass(frozen=True)
class Metric:
    """What the rest of TinTeM has to know of a metric.

    name: as records and gates have it.
    label: what people read.
    of: what it is measured of: the answer beside its target, angles against the teacher's, the
        teacher's own index, votes of labelled photos, their agreement with the teacher's, linear
        probes, scores of out-of-distribution photos, their ranks beside the teacher's, photos
        under common corruptions, masks, or answers of networks that were trained on labels.
    lower_is_better: whether less of it is better.
    needs_labels: whether it is measured over the photos that have a label.
    has_constant: whether a constant answer is measured beside it.
    fewest: photos that it is measured over; of fewer, chance alone would reach more than half.
    """

    name: str
    label: str
    of: Measured
    lower_is_better: bool = False
    needs_labels: bool = False
    has_constant: bool = False
    fewest: int = 0


_METRICS = (
    Metric("cosine_to_mapped", "cosine to the mapped teacher", "target", has_constant=True),
    Metric("cosine_to_mapped_p5", "cosine to the mapped teacher, 5th percentile", "target"),
    Metric(
        "r2_to_mapped",
        "variance of the mapped teacher explained (R²)",
        "target",
        has_constant=True,
    ),
    Metric("centred_cosine_to_mapped", "cosine to the mapped teacher, centred", "target"),
    Metric("pairwise_pearson", "faithfulness: Pearson of pairwise cosines", "angles"),
    Metric("pairwise_spearman", "faithfulness: Spearman of pairwise cosines", "angles"),
    Metric("cka_linear", "linear CKA", "angles"),
    Metric("neighbour_overlap_10", "same 10 nearest neighbours", "angles", fewest=21),
    Metric("same_photo_at_1", "same photo first in the teacher's index", "shared space"),
    Metric(
        "same_photo_at_10", "same photo among 10 of the teacher's index", "shared space", fewest=20
    ),
    Metric("shared_overlap_10", "teacher's 10 neighbours in its index", "shared space", fewest=21),
    Metric("shared_knn", "kNN accuracy in the teacher's index", "shared space", needs_labels=True),
    Metric("knn", "kNN accuracy", "votes", needs_labels=True),
    Metric("knn_over_classes", "kNN accuracy, mean over classes", "votes", needs_labels=True),
    *(
        Metric(f"few_shot_{n}", f"accuracy with {n} labelled per class", "votes", needs_labels=True)
        for n in SHOTS
    ),
    Metric("knn_agreement", "same kNN answer as the teacher", "agreement", needs_labels=True),
    Metric("linear_probe", "linear probe accuracy (SGD)", "probes", needs_labels=True),
    Metric("logistic_probe", "linear probe accuracy (L-BFGS)", "probes", needs_labels=True),
    Metric("auroc", "OOD AUROC", "ood"),
    Metric("aupr", "OOD AUPR, OOD positive", "ood"),
    Metric("fpr95", "OOD FPR95", "ood", lower_is_better=True),
    Metric("fpr95_openood", "OOD FPR95 by OpenOOD's definition", "ood", lower_is_better=True),
    Metric("corrupted_cosine_to_mapped", "cosine to the mapped teacher, corrupted", "corruptions"),
    Metric("corrupted_knn", "kNN accuracy, corrupted", "corruptions", needs_labels=True),
    Metric(
        "mce",
        "errors under corruption, teacher = 1",
        "corruptions",
        lower_is_better=True,
        needs_labels=True,
    ),
    Metric("fine_tuned", "accuracy, trained on all labels", "fine-tuning", needs_labels=True),
    Metric(
        "fine_tuned_gain",
        "accuracy on all labels, more than from scratch",
        "fine-tuning",
        needs_labels=True,
    ),
    Metric("miou", "linear segmentation, mIoU", "masks"),
    Metric("ood_rank_correlation", "OOD score rank correlation", "ood ranks"),
)
# Of the scores that are not the chosen one.
_OTHER_SCORES = {
    score: Metric(f"auroc_{score}", f"OOD AUROC by {score}", "ood", needs_labels=kind.needs_labels)
    for score, kind in SCORES.items()
}
CATALOGUE = {metric.name: metric for metric in (*_METRICS, *_OTHER_SCORES.values())}


def metric_of(path: str) -> Metric:
    """Return the metric that subject/set/name is about; one of no catalogue counts upwards."""
    name = path.rpartition("/")[2]
    return CATALOGUE.get(name, Metric(name, name, "target"))


def known_metrics(
    answers: Literal["student", "head"] | None,
    ood: Iterable[str] = (),
    teachers: Iterable[str] = (),
    probes: Iterable[str] = (),
    *,
    ood_score: str = "nearest-cosine",
    same_classes: Iterable[str] = (),
    corrupted: bool = False,
    fine_tuned: bool = False,
    masks: bool = False,
    index: bool = False,
) -> list[str]:
    """Return what an evaluation measures, as subject/set/name.

    What needs labels is measured over the photos that have one, what is found among 10 where there
    are photos enough (`Metric.fewest`), and what takes n labelled photos of a class where each
    class has them.

    Args:
        answers: who answers in a space of the teacher's, the student itself or a training head.
        ood: names of the out-of-distribution sets.
        teachers: names of the teachers, where there are several.
        probes: which linear probes are fitted, linear or logistic.
        ood_score: the score that is measured in full.
        same_classes: names of the sets of ``ood`` whose labels are scored too.
        corrupted: whether common corruptions are measured. Errors relative to the teacher's are,
            where it makes some under each of them.
        fine_tuned: whether the student is trained on labels too.
        masks: whether there are any.
        index: whether another student's is asked.
    """
    by_labels = [*_names("votes"), *(f"{name}_probe" for name in probes)]
    outliers = _names("ood")
    outliers += [m.name for score, m in _OTHER_SCORES.items() if score != ood_score]
    ood, labelled = tuple(ood), ("test", *same_classes)
    subjects = tuple(dict.fromkeys(["student", answers or "student"]))
    found = []
    for subject in subjects:
        for name in ("test", *ood):
            target = _names("target") if subject == answers else []
            found += [f"{subject}/{name}/{m}" for m in (*target, *_names("angles"))]
        for name in labelled:
            found += [f"{subject}/{name}/{m}" for m in (*by_labels, *_names("agreement"))]
        found += [f"{subject}/{ALL}/pairwise_pearson"] if ood else []
        for name in ood:
            found += [f"{subject}/{name}/{m}" for m in (*outliers, *_names("ood ranks"))]
    if answers is not None:
        found += [f"{answers}/test/{m}" for m in _names("shared space")]
        constant = [metric.name for metric in _METRICS if metric.has_constant]
        found += [f"constant/{name}/{m}" for name in ("test", *ood) for m in constant]
    for bound in BOUNDS if answers == "student" else ():
        found += [f"{bound}/{name}/{m}" for name in ("test", *ood) for m in _names("angles")]
        found += [f"{bound}/{ALL}/pairwise_pearson"] if ood else []
    found += [f"teacher/{name}/{m}" for name in labelled for m in by_labels]
    found += [f"teacher/{name}/{m}" for name in ood for m in outliers]
    if corrupted:
        found += [f"{who}/test/corrupted_knn" for who in ("teacher", *subjects)]
        found += [f"{who}/test/mce" for who in subjects]
        asked = () if answers is None else (answers, "constant")
        found += [f"{who}/test/corrupted_cosine_to_mapped" for who in asked]
    if index and answers == "student":
        found += [f"{EXCHANGE}/test/{m}" for m in _names("shared space")]
    if masks:
        found += [f"{who}/test/miou" for who in ("teacher", "student")]
    if fine_tuned:
        found += [f"{who}/test/fine_tuned" for who in ("student", SCRATCH)]
        found += ["student/test/fine_tuned_gain"]
    for teacher in teachers:
        found += [f"student against {teacher}/{name}/{m}" for name in ("test", *ood)
                  for m in _names("angles")]  # fmt: skip
    return found


def _names(*of: Measured) -> list[str]:
    return [metric.name for metric in _METRICS if metric.of in of]
