"""The figures of a run."""

import base64
import io

import matplotlib
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

matplotlib.use("Agg")

_TEACHER, _STUDENT = "#9aa5b1", "#0b7285"


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


def png(figure: Figure, dpi: int = 150) -> str:
    """Return a figure as PNG, base64."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return base64.b64encode(buffer.getvalue()).decode()
