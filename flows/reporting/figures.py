"""The figures of a run, as pictures for where no page can draw: Prefect's artifacts."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from flows.reporting.evidence import Picture

if TYPE_CHECKING:
    from flows.reporting.sections.neighbours import Query

matplotlib.use("Agg")

_TEACHER, _STUDENT = "#9aa5b1", "#0b7285"
_TILE = 100


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


def pairs_figure(cosines: Mapping[str, NDArray[np.float32]]) -> Figure:
    """Draw the cosine of pairs of photos by the student over the teacher's, (P,) each."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(cosines["teacher"], cosines["student"], ".", color=_STUDENT, alpha=0.4, markersize=4)
    axes.axline((1, 1), slope=1, color=_TEACHER, linestyle="--", linewidth=1)
    axes.set(xlabel="cosine of a pair of test photos by the teacher", ylabel="by the student")
    axes.grid(alpha=0.3)
    return figure


def neighbour_sheet(queries: "Sequence[Query]") -> str:
    """Return a line for each photo: itself, its nearest by teacher and student; JPEG, base64."""
    lines = [
        [q.picture, None, *(o.picture for o in q.teacher), None, *(o.picture for o in q.student)]
        for q in queries
    ]
    sheet = Image.new("RGB", (_TILE * max(map(len, lines)), _TILE * len(lines)), "white")
    for y, line in enumerate(lines):
        for x, picture in enumerate(line):
            if picture is not None and picture.image is not None:
                sheet.paste(_decoded(picture), (x * _TILE, y * _TILE))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def _decoded(picture: Picture) -> Image.Image:
    assert picture.image is not None
    return Image.open(io.BytesIO(base64.b64decode(picture.image.partition(",")[2])))


def png(figure: Figure, dpi: int = 150) -> str:
    """Return a figure as PNG, base64."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return base64.b64encode(buffer.getvalue()).decode()
