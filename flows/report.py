"""The model card and the report page that lie beside an exported model."""

import base64
import html
import io
from typing import Any

import matplotlib
import polars as pl

from flows.config import RunConfig
from flows.summary import Row

matplotlib.use("Agg")
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_THROUGH_HEAD = "trained without labels to give the teacher's embedding through a head of its own"
_TRAINED = {
    "tintem": "trained without labels to give the teacher's embedding, mapped to its own width",
    "proteus": _THROUGH_HEAD,
    "linear-cosine": _THROUGH_HEAD,
    "supervised": "trained on the labels of its photos, without the teacher",
}
_TEACHER, _STUDENT = "#9aa5b1", "#0b7285"


def card(config: RunConfig, rows: list[Row], record: dict[str, Any]) -> str:
    """Return the model card, Markdown."""
    model = record["model"]
    lines = [
        f"# {config.student.title}, distilled from {config.teacher.model}",
        "",
        f"A student of {config.data.name}, {_TRAINED[config.training.objective]}. Made by TinTeM, "
        f"{record['provenance']['created']}.",
        "",
        *_choice(config),
        f"- file: `{model['file']}`",
        f"- input: `{model['input']}`; pixel normalisation is inside the model",
        "- photos: upright (EXIF orientation), transparent parts over white, the central square, "
        "bicubic; `tintem_pixels.load_pixels(photo, size)` does so",
        f"- output: `{model['output']}`; compare embeddings by their cosine",
        f"- check: {_check(record)}",
        "",
        "| | | teacher | student |",
        "|---|---|---|---|",
        *(f"| {r.group} | {r.label} | {r.teacher} | {r.student} |" for r in rows),
        "",
        "Square brackets: bootstrap 95% intervals over photos. Latencies: this machine "
        f"({record['provenance']['machine']}, {record['provenance']['cores']} cores).",
        "",
    ]
    return "\n".join(lines)


def _choice(config: RunConfig) -> list[str]:
    if config.training.select == "last":
        return []
    told = "Its weights are the best of the training on photos held out of it"
    return [f"{told}, judged by their labels where all photos have some.", ""]


def report_page(
    config: RunConfig,
    rows: list[Row],
    record: dict[str, Any],
    history: pl.DataFrame,
    ood_scores: bytes,
) -> str:
    """Return a self-contained HTML page: the summary, the training curve, the OOD scores."""
    loss = config.training.loss_name(joint=config.mapping.fit == "joint")
    figures = [("Training", _image(training_figure(history, loss)))]
    if config.evaluation.ood:
        scores = pl.read_parquet(io.BytesIO(ood_scores))
        figures.append(("Out-of-distribution scores", _image(ood_figure(scores))))
    title = f"{config.student.title} ⟵ {config.teacher.model}"
    return _PAGE.format(
        title=html.escape(title),
        subtitle=html.escape(
            f"{config.data.name} · {record['provenance']['created']} · {_check(record)}"
        ),
        table=_table(rows),
        figures="".join(
            f"<h2>{name}</h2><img alt='{name}' src='data:image/png;base64,{data}'>"
            for name, data in figures
        ),
    )


def _check(record: dict[str, Any]) -> str:
    found = record["verification"]
    sizes = ", ".join(str(size) for size in found["batch_sizes"])
    return (
        f"ONNX Runtime against PyTorch on {found['photos']} photos at batch sizes {sizes}: "
        f"smallest cosine {found['smallest_cosine']:.7f}"
    )


def _table(rows: list[Row]) -> str:
    lines, group = [], ""
    for row in rows:
        if row.group != group:
            group = row.group
            lines.append(f"<tr class='group'><th colspan='3'>{html.escape(group)}</th></tr>")
        cells = (row.label, row.teacher, row.student)
        lines.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>")
    return "".join(lines)


def training_figure(history: pl.DataFrame, loss: str) -> Figure:
    """Draw the loss over the epochs, and the validation score where there is one.

    Args:
        history: the training curve.
        loss: what the loss is.
    """
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(history["epoch"], history["loss"], color=_STUDENT)
    axes.set(xlabel="epoch", ylabel="loss", title=loss, yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if "validation" in history.columns:
        scores = history.drop_nulls("validation")
        right = axes.twinx()
        right.plot(scores["epoch"], scores["validation"], "o-", color=_TEACHER, markersize=3)
        right.set(ylabel="score of the photos held out")
    return figure


def ood_figure(scores: pl.DataFrame) -> Figure:
    """Draw how the scores of every dataset lie, seen by the teacher and by the student.

    Args:
        scores: subject, dataset, score.
    """
    datasets = scores["dataset"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, subject in zip(figure.subplots(1, 2), ("teacher", "student"), strict=True):
        mine = scores.filter(pl.col("subject") == subject)
        for dataset in datasets:
            values = mine.filter(pl.col("dataset") == dataset)["score"].to_numpy()
            axes.hist(values, bins=40, density=True, alpha=0.6, label=dataset)
        axes.set(title=subject, xlabel="cosine to the nearest training photo", yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(axis="x", useOffset=False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def _image(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return base64.b64encode(buffer.getvalue()).decode()


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
 body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 3rem auto;
        padding: 0 1rem; color: #1f2933; }}
 h1 {{ margin-bottom: 0; }} p {{ color: #616e7c; margin-top: .3rem; }}
 table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
 td, th {{ text-align: left; padding: .25rem .5rem; border-bottom: 1px solid #e4e7eb; }}
 tr.group th {{ padding-top: 1rem; color: #0b7285; border-bottom: 2px solid #0b7285; }}
 img {{ max-width: 100%; }}
</style>
<h1>{title}</h1><p>{subtitle}</p>
<table><tr><th></th><th>teacher</th><th>student</th></tr>{table}</table>
<p>Square brackets: bootstrap 95% intervals over photos.</p>
{figures}
</html>
"""
