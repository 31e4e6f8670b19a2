"""Faithfulness against size: one picture of a leaderboard.

Legend: boxes are (left, bottom, right, top) in pixels.
"""

import io
import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from flows.experiments.standings import Group, Reference
from tintem_core.evaluation.metrics import metric_of

matplotlib.use("Agg")


Box = tuple[float, float, float, float]
_DPI = 200
# Okabe and Ito's colours, which the colour-blind can tell apart too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_GREY = "#52606d"
_MARKER, _LABEL, _AXIS = 4.5, 7.0, 8.5
# Students of one size stand beside each other, by this share of the axis.
_APART = 0.011
# Where a label may be, as seen from its point: right first, as a reader expects it.
_DIRECTIONS = (0, 35, -35, 180, 145, -145, 90, -90)
_NEAREST, _RING, _RINGS = 5.0, 5.0, 10
# Inches: the figure, and a line of its legend.
_NARROW, _WIDE, _LINE = (6.4, 4.0), (8.6, 4.4), 0.15


class _Point(NamedTuple):
    x: float
    y: float
    low: float
    high: float


class _Label(NamedTuple):
    text: str
    x: float
    y: float
    colour: str


def plot(group: Group) -> bytes:
    """Draw the students' metric over their parameters, the teacher as reference; returns a PNG."""
    figure, _ = draw(group)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def draw(group: Group) -> tuple[Figure, list[Box]]:
    """Return the figure, and the boxes of its labels.

    Names stand at their points; where they do not all fit there, numbers do, and a legend tells
    which is which. In the greatest crowd the numbers may lie on intervals.
    """
    for numbered, on_intervals in ((False, False), (True, False), (True, True)):
        figure, boxes, found_room = _drawn(group, numbered, on_intervals)
        if found_room:
            break
    return figure, boxes


def _drawn(group: Group, numbered: bool, on_intervals: bool) -> tuple[Figure, list[Box], bool]:
    """Return the figure, the boxes of its labels, and whether all of them found room."""
    variants = group.variants()["variant"].to_list()
    width, height = _WIDE if numbered else _NARROW
    height = max(height, _LINE * len(variants)) if numbered else height
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    points, labels, legend = [], [], []
    students = _students(group)
    for number, variant in enumerate(variants):
        mine = students.get(variant, [])
        if mine:
            colour = _COLOURS[number % len(_COLOURS)]
            _draw_points(axes, mine, colour)
            points += mine
            x = math.exp(statistics.fmean(math.log(point.x) for point in mine))
            y = statistics.fmean(point.y for point in mine)
            labels.append(_Label(f"{number + 1}" if numbered else variant, x, y, colour))
            legend.append(f"{number + 1}  {variant}")
    points += _draw_teacher(axes, group.teacher, labels)
    _dress(axes, group)
    if numbered:
        handles = [Line2D([], [], marker="o", linestyle="", color=x.colour) for x in labels]
        figure.legend(
            handles[: len(legend)], legend, loc="outside right center", fontsize=_LABEL,
            markerscale=0.5, frameon=False, handletextpad=0.1,
        )  # fmt: skip
    # The layout is settled by drawing; only then is it known which pixels a label would cover.
    figure.draw_without_rendering()
    if on_intervals:
        points = [point._replace(low=point.y, high=point.y) for point in points]
    taken = [_box(axes, point) for point in points]
    line, around = axes.transData.transform((1, group.teacher.value))[1], axes.get_window_extent()
    taken.append((around.x0, line - 3, around.x1, line + 3))
    boxes = _write_labels(axes, labels, taken)
    return figure, boxes, len(boxes) == len(labels)


def _draw_teacher(axes: Axes, teacher: Reference, labels: list[_Label]) -> list[_Point]:
    axes.axhline(teacher.value, color=_GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    if teacher.low is not None and teacher.high is not None:
        axes.axhspan(teacher.low, teacher.high, color=_GREY, alpha=0.12, linewidth=0)
    if teacher.parameters is None:
        return []
    x, y = float(teacher.parameters), teacher.value
    axes.plot(x, y, "*", color=_GREY, markersize=11, zorder=3)
    labels.append(_Label(f"{teacher.name} (teacher)", x, y, _GREY))
    return [_Point(x, y, y, y)]


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
    """Return the range of the horizontal axis: all sizes, and room for labels."""
    sizes = [*group.table["parameters"], group.teacher.parameters]
    known = [size for size in sizes if size is not None]
    return min(known) / 1.5, max(known) * 1.9


def _draw_points(axes: Axes, points: Sequence[_Point], colour: str) -> None:
    axes.errorbar(
        [p.x for p in points], [p.y for p in points],
        yerr=[[p.y - p.low for p in points], [p.high - p.y for p in points]],
        fmt="o", color=colour, markersize=_MARKER, elinewidth=0.9, capsize=2.0, capthick=0.9,
        zorder=3,
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


def _box(axes: Axes, point: _Point) -> Box:
    """Return what a point and its interval cover."""
    around = _MARKER / 2 * _DPI / 72 + 1
    left, bottom = axes.transData.transform((point.x, point.low))
    right, top = axes.transData.transform((point.x, point.high))
    return left - around, bottom - around, right + around, top + around


def _write_labels(axes: Axes, labels: Sequence[_Label], taken: list[Box]) -> list[Box]:
    """Write labels where they cover nothing, as near to their points as can be.

    Args:
        taken: what is drawn already.

    Returns:
        The boxes of the labels that found room.
    """
    placed: list[Box] = []
    for label in sorted(labels, key=lambda label: -label.y):
        size = _size(axes, label.text)
        across, up = axes.transData.transform((label.x, label.y))
        for x, y in _offsets():
            alignment = "left" if x > 1 else "right" if x < -1 else "center"
            box = _text_box((across, up), (x, y), size, alignment)
            if _inside(box, axes) and not any(_overlap(box, o) for o in (*taken, *placed)):
                # A label that had to go far away is tied to its point.
                tie = {"arrowstyle": "-", "linewidth": 0.5, "color": label.colour, "alpha": 0.6}
                tie |= {"shrinkA": 0, "shrinkB": _MARKER / 2}
                axes.annotate(
                    label.text, (label.x, label.y), xytext=(x, y), textcoords="offset points",
                    fontsize=_LABEL, color=label.colour, ha=alignment, va="center", zorder=4,
                    arrowprops=tie if math.hypot(x, y) > _NEAREST + 2 * _RING else None,
                ).set_in_layout(False)  # fmt: skip
                placed.append(box)
                break
    return placed


def _offsets() -> Iterator[tuple[float, float]]:
    """Yield places around a point, in typographic points, the nearest ones first."""
    for ring, angle in itertools.product(range(_RINGS), _DIRECTIONS):
        radius = _NEAREST + ring * _RING
        yield radius * math.cos(math.radians(angle)), radius * math.sin(math.radians(angle))


def _size(axes: Axes, text: str) -> tuple[float, float]:
    probe = axes.text(0, 0, text, fontsize=_LABEL, transform=None)
    extent = probe.get_window_extent()
    probe.remove()
    return extent.width, extent.height


def _text_box(
    point: tuple[float, float],
    offset: tuple[float, float],
    size: tuple[float, float],
    alignment: str,
) -> Box:
    x, y = (place + shift * _DPI / 72 for place, shift in zip(point, offset, strict=True))
    left = {"left": x, "center": x - size[0] / 2, "right": x - size[0]}[alignment]
    return left - 2, y - size[1] / 2 - 1, left + size[0] + 2, y + size[1] / 2 + 1


def _inside(box: Box, axes: Axes) -> bool:
    around = axes.get_window_extent()
    return bool(
        box[0] >= around.x0 and box[1] >= around.y0 and box[2] <= around.x1 and box[3] <= around.y1
    )


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
