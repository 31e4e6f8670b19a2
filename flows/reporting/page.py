"""The model card and the report page that lie beside an exported model."""

import io
from typing import Any

import polars as pl

from flows.config.run import RunConfig
from flows.reporting.figures import ood_figure, png, training_figure
from flows.reporting.summary import Row
from flows.templates import render


def card(
    config: RunConfig, rows: list[Row], record: dict[str, Any], *, has_mapping: bool = False
) -> str:
    """Return the model card: Markdown with the front matter of the Hugging Face hub.

    Args:
        config: the run.
        rows: of its summary.
        record: of the export.
        has_mapping: whether the teacher's mapping lies beside the student.
    """
    return render(
        "card.md.jinja",
        config=config,
        rows=rows,
        export=record,
        made=record["provenance"],
        check=_check(record),
        has_mapping=has_mapping,
        timings=list(record["formats"]["onnx"]["speed_ms"]),
    )


def report_page(
    config: RunConfig,
    rows: list[Row],
    record: dict[str, Any],
    history: pl.DataFrame,
    ood_scores: bytes,
) -> str:
    """Return a self-contained HTML page: the summary, the training curve, the OOD scores."""
    loss = config.training.loss_name(joint=config.mapping.fit == "joint")
    figures = [("Training", png(training_figure(history, loss)))]
    if config.evaluation.ood:
        scores = pl.read_parquet(io.BytesIO(ood_scores))
        figures.append(("Out-of-distribution scores", png(ood_figure(scores))))
    return render(
        "report.html.jinja",
        title=f"{config.student.title} ⟵ {config.teacher.name}",
        subtitle=f"{config.data.name} · {record['provenance']['created']} · {_check(record)}",
        rows=rows,
        figures=figures,
    )


def _check(record: dict[str, Any]) -> str:
    found = record["verification"]
    sizes = ", ".join(str(size) for size in found["batch_sizes"])
    return (
        f"ONNX Runtime against PyTorch on {found['photos']} photos at batch sizes {sizes}: "
        f"smallest cosine {found['smallest_cosine']:.7f}"
    )
