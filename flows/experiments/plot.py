"""Faithfulness against size: one picture of a leaderboard."""

import io
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from flows.experiments.standings import Group, Reference
from tintem_core.evaluation.metrics import metric_of

matplotlib.use("Agg")

# Okabe and Ito's colours, which the colour-blind can tell apart too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREY = "#52606d"
_MARKER, _LABEL, _AXIS = 4.5, 7.0, 8.5
# Students of one size stand beside each other, by this share of the axis.
_APART = 0.011
# Inches: the figure, and a line of its legend.
_WIDTH, _HEIGHT, _LINE = 8.6, 4.4, 0.16


class _Point(NamedTuple):
    x: float
    y: float
    low: float
    high: float


def plot(group: Group) -> bytes:
    """Draw the students' metric over their parameters, the teacher as reference; returns a PNG."""
    buffer = io.BytesIO()
    draw(group).savefig(buffer, format="png", dpi=200)
    return buffer.getvalue()


def draw(group: Group) -> Figure:
    """Return the figure: a number at each student, and a legend that tells which is which."""
    variants = group.variants()["variant"].to_list()
    height = max(_HEIGHT, _LINE * (len(variants) + 3))
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    students = _students(group)
    handles: list[Artist | ErrorbarContainer] = []
    for number, variant in enumerate(variants, 1):
        if mine := students.get(variant, []):
            colour = _COLOURS[(number - 1) % len(_COLOURS)]
            handles.append(_draw_points(axes, mine, colour, f"{number}  {variant}"))
            for point in mine:
                axes.annotate(
                    str(number), (point.x, point.y), xytext=(3, 3), textcoords="offset points",
                    fontsize=_LABEL, color=colour,
                )  # fmt: skip
    handles.append(_draw_teacher(axes, group.teacher))
    _dress(axes, group)
    figure.legend(
        handles=handles,
        loc="outside right center",
        fontsize=_LABEL,
        frameon=False,
        handletextpad=0.1,
    )
    return figure


def _draw_teacher(axes: Axes, teacher: Reference) -> Artist:
    name = f"{teacher.name} (teacher)"
    if teacher.low is not None and teacher.high is not None:
        axes.axhspan(teacher.low, teacher.high, color=_GREY, alpha=0.12, linewidth=0)
    line = axes.axhline(
        teacher.value, color=_GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1, label=name
    )
    if teacher.parameters is None:
        return line
    (star,) = axes.plot(
        float(teacher.parameters), teacher.value, "*", color=_GREY, markersize=11, label=name
    )
    return star


def _students(group: Group) -> dict[str, list[_Point]]:
    """Return the students' points by variant; those of one size stand beside each other."""
    rows = group.table.drop_nulls("value").sort("parameters", maintain_order=True).to_dicts()
    low, high = _sizes(group)
    step = _APART * math.log(high / low)
    clusters: list[list[float]] = []
    for x in (math.log(row["parameters"]) for row in rows):
        if clusters and x - clusters[-1][-1] < step:
            clusters[-1].append(x)
        else:
            clusters.append([x])
    places = [
        statistics.fmean(cluster) + (number - (len(cluster) - 1) / 2) * step
        for cluster in clusters
        for number in range(len(cluster))
    ]
    found: dict[str, list[_Point]] = {}
    for x, row in zip(places, rows, strict=True):
        y = row["value"]
        low, high = (y if row[end] is None else row[end] for end in ("low", "high"))
        point = _Point(math.exp(x), y, min(low, y), max(high, y))
        found.setdefault(row["variant"], []).append(point)
    return found


def _sizes(group: Group) -> tuple[float, float]:
    """Return the range of the horizontal axis: all sizes, and some room."""
    sizes = [*group.table["parameters"], group.teacher.parameters]
    known = [size for size in sizes if size is not None]
    return min(known) / 1.5, max(known) * 1.9


def _draw_points(
    axes: Axes, points: Sequence[_Point], colour: str, label: str
) -> ErrorbarContainer:
    return axes.errorbar(
        [p.x for p in points], [p.y for p in points],
        yerr=[[p.y - p.low for p in points], [p.high - p.y for p in points]],
        fmt="o", color=colour, markersize=_MARKER, elinewidth=0.9, capsize=2.0, capthick=0.9,
        zorder=3, label=label,
    )  # fmt: skip


def _dress(axes: Axes, group: Group) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*_sizes(group))
    axes.margins(y=0.1)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(*axes.get_xlim())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1e6:g} M"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("parameters (log scale)", fontsize=_AXIS)
    axes.set_ylabel(_metric_label(group.metric), fontsize=_AXIS)
    axes.set_title(
        f"{group.data}: {group.test_photos:,} unseen photos, bars are 95% intervals",
        fontsize=_AXIS, loc="left",
    )  # fmt: skip
    axes.tick_params(labelsize=_LABEL + 0.5)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10... of every power of ten in a range."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high]


def _metric_label(path: str) -> str:
    _, dataset, _ = path.split("/") if path.count("/") == 2 else ("", "", "")
    metric = metric_of(path)
    label = metric.label + (" (less is better)" if metric.lower_is_better else "")
    return label if dataset in ("", "test") else f"{label}, {dataset}"
