"""The numbers of a finished run as rows that a person understands: teacher against student."""

from dataclasses import dataclass
from typing import Any

from flows.config.run import RunConfig
from tintem_core.evaluation.few_shot import SHOTS
from tintem_core.evaluation.metrics import ALL, SCRATCH
from tintem_core.evaluation.neighbours import NEIGHBOURS


@dataclass(frozen=True)
class Row:
    """One line of the summary; ``group`` is its heading.

    Where the teacher has no number of its own, its column says what the student's is worth: what a
    constant answer or chance would reach.
    """

    group: str
    label: str
    teacher: str
    student: str


@dataclass(frozen=True)
class PhotoCounts:
    """How many photos were learnt from, kept for testing, and left out as unreadable."""

    train: int
    test: int
    unreadable: int


def summary_rows(
    config: RunConfig,
    photos: PhotoCounts,
    mapping: dict[str, Any],
    student: dict[str, Any],
    evaluation: dict[str, Any],
    export: dict[str, Any],
) -> list[Row]:
    """Build the summary from the records of a run.

    Args:
        config: the run.
        photos: how many there are.
        mapping, student, evaluation, export: the stages' records.
    """
    latency = export["latency_ms"]
    onnx_mb = export["model"]["bytes"] / 1e6
    width = mapping["spec"]["width"]
    # Of a file of latents, nothing is known but what it holds.
    is_stored = config.teacher.latents is not None
    rows = [
        Row("Photos", "learnt from", "", f"{photos.train:,}"),
        Row("Photos", "kept apart for testing", "", f"{photos.test:,}"),
        Row("Photos", "unreadable, left out", "", f"{photos.unreadable:,}"),
        Row("Model", "name", config.teacher.name, config.student.name),
        Row(
            "Model",
            "input",
            "–" if is_stored else f"{config.teacher.image_size} px",
            f"{config.student.image_size} px",
        ),
        Row("Model", "embedding width", str(mapping["teacher_width"]), str(width)),
        Row(
            "Model",
            "parameters",
            *(
                "–" if count is None else f"{count / 1e6:.2f} M"
                for count in (export["teacher_parameters"], student["parameters"])
            ),
        ),
        Row("Model", "stages", "–" if is_stored else "all", str(config.student.stages or "all")),
        Row("Model", "ONNX file", "–", f"{onnx_mb:.1f} MB"),
        Row(
            "Latency, one photo, CPU",
            "PyTorch",
            "–" if latency["teacher"] is None else f"{latency['teacher']:.1f} ms",
            f"{latency['student']:.1f} ms",
        ),
        Row("Latency, one photo, CPU", "ONNX Runtime", "–", f"{latency['student_onnx']:.1f} ms"),
    ]
    found = {(r["subject"], r["dataset"], r["name"]): r for r in evaluation["rows"]}
    neighbours = min(config.evaluation.knn, photos.train)
    ood = [source.name for source in config.evaluation.ood]
    # The one who answers in the teacher's space: a baseline's student does so through its head.
    is_head = any(subject == "head" for subject, _, _ in found)

    def add(group: str, label: str, dataset: str, metric: str, subject: str = "student") -> None:
        row = found.get((subject, dataset, metric))
        if row is not None:
            of_teacher = found.get(("teacher", dataset, _OF_TEACHER.get(metric, metric)))
            constant = found.get(("constant", dataset, metric))
            fitted = found.get(("mapped", dataset, metric))
            scratch = found.get((SCRATCH, dataset, metric))
            if of_teacher is not None and (chance := of_teacher.get("chance")) is not None:
                label += f" (chance {chance:.3f})"
            worth = _worth(row, of_teacher, constant, fitted, scratch)
            rows.append(Row(group, label, worth, _cell(row)))

    faithful = f"Faithfulness, {evaluation['test_photos']} unseen photos"
    for label, metric in _FAITHFULNESS:
        add(faithful, label, "test", metric)
    # Fewer than 10 where chance would reach more than half.
    among = range(NEIGHBOURS, 0, -1)
    for k in among:
        add(faithful, f"same {k} nearest neighbours", "test", f"neighbour_overlap_{k}")
    add(faithful, "pairwise cosines, all sets", ALL, "pairwise_pearson")
    shared = "Asked in the teacher's index" + (", through the training head" if is_head else "")
    for label, metric in _SHARED:
        add(shared, label, "test", metric, "head" if is_head else "student")
    for k in among:
        label, metric = f"teacher's {k} neighbours found", f"shared_overlap_{k}"
        add(shared, label, "test", metric, "head" if is_head else "student")
    label = f"kNN, k = {neighbours}"
    add(shared, label, "test", "shared_knn", "head" if is_head else "student")
    add("Accuracy", f"kNN, k = {neighbours}", "test", "knn")
    add("Accuracy", "kNN by class", "test", "knn_over_classes")
    for shots in SHOTS:
        add("Accuracy", f"{shots}-shot", "test", f"few_shot_{shots}")
    add("Accuracy", "probe (SGD)", "test", "linear_probe")
    add("Accuracy", "probe (L-BFGS)", "test", "logistic_probe")
    add("Accuracy", "same kNN answer", "test", "knn_agreement")
    add("Accuracy", "trained on all labels", "test", "fine_tuned")
    add("Accuracy", "… more than from scratch", "test", "fine_tuned_gain")
    add("Patch tokens", "linear segmentation, mIoU", "test", "miou")
    corrupted = "Under 15 common corruptions"
    add(corrupted, "cosine to the mapped teacher", "test", "corrupted_cosine_to_mapped")
    add(corrupted, f"kNN, k = {neighbours}", "test", "corrupted_knn")
    add(corrupted, "errors, the teacher's are 1 (mCE)", "test", "mce")
    for name in ood:
        shift = config.evaluation.shifts.get(name)
        group = f"Out of distribution: {name}" + (f" ({shift})" if shift else "")
        add(group, f"kNN, k = {neighbours}", name, "knn")
        add(group, "AUROC", name, "auroc")
        add(group, "AUPR", name, "aupr")
        add(group, "FPR95 ↓", name, "fpr95")
        add(group, "score rank correlation", name, "ood_rank_correlation")
        add(group, "pairwise cosines, Pearson", name, "pairwise_pearson")
    return rows


_FAITHFULNESS = (
    ("cosine to the mapped teacher", "cosine_to_mapped"),
    ("its variance explained (R²)", "r2_to_mapped"),
    ("pairwise cosines, Pearson", "pairwise_pearson"),
    ("linear CKA", "cka_linear"),
)
_SHARED = (
    ("same photo found first", "same_photo_at_1"),
    ("same photo among the first 10", "same_photo_at_10"),
)
_OF_TEACHER = {"shared_knn": "knn"}


def _worth(
    row: dict[str, Any],
    teacher: dict[str, Any] | None,
    constant: dict[str, Any] | None,
    fitted: dict[str, Any] | None,
    scratch: dict[str, Any] | None,
) -> str:
    """Say what there is to compare a student's number with."""
    if teacher is not None:
        return _cell(teacher)
    if constant is not None:
        return f"(constant answer {constant['value']:.3f})"
    if scratch is not None:
        return f"(from scratch {_cell(scratch)})"
    if row.get("chance") is not None:
        return f"(chance {row['chance']:.3f})"
    if fitted is not None:
        return f"(mapped teacher {fitted['value']:.3f})"
    # An evaluation of an older release knew no more.
    return "–"


def _cell(row: dict[str, Any]) -> str:
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
