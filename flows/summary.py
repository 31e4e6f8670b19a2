"""The numbers of a finished run as rows that a person understands: teacher against student."""

from dataclasses import dataclass
from typing import Any

from flows.config import RunConfig


@dataclass(frozen=True)
class Row:
    """One line of the summary; ``group`` is its heading."""

    group: str
    label: str
    teacher: str
    student: str


@dataclass(frozen=True)
class Photos:
    """How many photos were learnt from, kept for testing, and left out as unreadable."""

    train: int
    test: int
    unreadable: int


def summary_rows(
    config: RunConfig,
    photos: Photos,
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
    rows = [
        Row("Photos", "learnt from", "", f"{photos.train:,}"),
        Row("Photos", "kept apart for testing", "", f"{photos.test:,}"),
        Row("Photos", "unreadable, left out", "", f"{photos.unreadable:,}"),
        Row("Model", "name", config.teacher.model, config.student.model),
        Row("Model", "input", *(f"{c.image_size} px" for c in (config.teacher, config.student))),
        Row("Model", "embedding width", str(mapping["teacher_width"]), str(width)),
        Row(
            "Model",
            "parameters",
            *(
                f"{count / 1e6:.2f} M"
                for count in (export["teacher_parameters"], student["parameters"])
            ),
        ),
        Row("Model", "ONNX file", "–", f"{onnx_mb:.1f} MB"),
        Row(
            "Latency, one photo, CPU",
            "PyTorch",
            *(f"{latency[who]:.1f} ms" for who in ("teacher", "student")),
        ),
        Row("Latency, one photo, CPU", "ONNX Runtime", "–", f"{latency['student_onnx']:.1f} ms"),
    ]
    found = {(r["subject"], r["dataset"], r["name"]): r for r in evaluation["rows"]}

    def both(group: str, label: str, dataset: str, metric: str) -> None:
        cells = [found.get((subject, dataset, metric)) for subject in ("teacher", "student")]
        if any(cells):
            rows.append(Row(group, label, *(_cell(c) for c in cells)))

    faithful = f"Faithfulness, {evaluation['test_photos']} unseen photos"
    for label, metric in _FAITHFULNESS:
        both(faithful, label, "test", metric)
    neighbours = min(config.evaluation.knn, photos.train)
    both("Accuracy", f"kNN, k = {neighbours}", "test", "knn")
    for source in config.evaluation.ood:
        group = f"Out of distribution: {source.name}"
        both(group, "AUROC", source.name, "auroc")
        both(group, "FPR95 (lower is better)", source.name, "fpr95")
        both(group, "score rank correlation", source.name, "ood_rank_correlation")
        both(group, "pairwise cosines, Pearson", source.name, "pairwise_pearson")
    return rows


_FAITHFULNESS = (
    ("cosine to the mapped teacher", "cosine_to_mapped"),
    ("pairwise cosines, Pearson", "pairwise_pearson"),
    ("pairwise cosines, Spearman", "pairwise_spearman"),
    ("linear CKA", "cka_linear"),
    ("same 10 nearest neighbours", "neighbour_overlap_10"),
    ("same kNN answer", "knn_agreement"),
)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
