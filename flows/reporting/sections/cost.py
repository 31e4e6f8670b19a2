"""What does it cost? Size and time, and what other students of the root give for theirs."""

from collections.abc import Sequence
from dataclasses import dataclass

from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from flows.reporting.evidence import Evidence, Peer
from flows.reporting.plots import STRANGE, STUDENT, TEACHER, hover, in_millions, legend_above, plot
from flows.reporting.sections.base import Section

METRIC = "student/test/pairwise_pearson"


@dataclass(frozen=True)
class Price:
    """One cost, of teacher and student."""

    what: str
    teacher: str
    student: str


@dataclass(frozen=True, kw_only=True)
class Cost(Section):
    """Size, latency, throughput, and the students that nothing smaller beats."""

    name = "cost"
    title = "What does it cost?"
    prices: Sequence[Price]


def cost(evidence: Evidence) -> Cost:
    """Say what the student needs beside its teacher."""
    export, parameters = evidence.export, evidence.student["parameters"]
    latency = export["latency_ms"]
    said = (
        f"The student has {parameters / 1e6:.2f} M parameters, fits in "
        f"{export['model']['bytes'] / 1e6:.1f} MB, and embeds a photo in "
        f"{latency['student_onnx']:.1f} ms on this machine's CPU."
    )
    if export["teacher_parameters"] is not None and latency["teacher"] is not None:
        said += (
            f" The teacher has {export['teacher_parameters'] / 1e6:.2f} M, and takes "
            f"{latency['teacher']:.1f} ms{_faster(latency['teacher'] / latency['student_onnx'])}."
        )
    made = evidence.export["provenance"]
    where = f"Timed one photo at a time on {made['cores']} cores ({made['machine']})."
    return Cost(
        says=(said, where, *_standing(evidence)),
        unmeasured=("batches of photos, and any device but this machine.",),
        prices=_prices(evidence),
        plots={"pareto": _pareto(evidence)} if len(evidence.peers) > 1 else {},
    )


def _faster(factor: float) -> str:
    if factor <= 1:
        return ""
    return f" ({factor:.1f} times as long)" if factor < 10 else f" ({factor:.0f} times as long)"


def _prices(evidence: Evidence) -> list[Price]:
    export, latency = evidence.export, evidence.export["latency_ms"]
    sizes = (export["teacher_parameters"], evidence.student["parameters"])
    inputs = (evidence.config.teacher.image_size, evidence.config.student.image_size)
    rate = None if latency["teacher"] is None else 1e3 / latency["teacher"]
    return [
        Price("parameters", *(_number(size and size / 1e6, "{:.2f} M") for size in sizes)),
        Price("input", *(f"{side} px" for side in inputs)),
        Price("ONNX file", "–", f"{export['model']['bytes'] / 1e6:.1f} MB"),
        Price(
            "PyTorch, one photo",
            *(_number(latency[who], "{:.1f} ms") for who in ("teacher", "student")),
        ),
        Price("ONNX Runtime, one photo", "–", f"{latency['student_onnx']:.1f} ms"),
        Price(
            "photos a second, one at a time",
            _number(rate, "{:.0f}"),
            f"{1e3 / latency['student_onnx']:.0f}",
        ),
    ]


def _number(value: float | None, form: str) -> str:
    """Write a number of a teacher that may be known by its latents alone."""
    return "–" if value is None else form.format(value)


def pareto_front(peers: Sequence[Peer]) -> list[Peer]:
    """Return the students that none of as few parameters beats, the smallest first."""
    found: list[Peer] = []
    for peer in sorted(peers, key=lambda each: (each.parameters, -each.value, each.id)):
        if not found or peer.value > found[-1].value:
            found.append(peer)
    return found


def _standing(evidence: Evidence) -> list[str]:
    others = len(evidence.peers) - 1
    if others < 1:
        return ["No other student of this root was measured on the same photos."]
    mine = evidence.export["student"]
    is_best = any(peer.id == mine for peer in pareto_front(evidence.peers))
    known = f"Of {others + 1} students of this root that were measured on the same photos, "
    return [
        known
        + (
            "none of as few parameters is more faithful."
            if is_best
            else "another one of as few parameters is more faithful."
        )
    ]


def _pareto(evidence: Evidence) -> figure:
    """Plot faithfulness over size, of every student that compares."""
    mine, front = evidence.export["student"], pareto_front(evidence.peers)
    made = plot(
        "Faithfulness and size of every student of this root", "parameters (log scale)",
        "Pearson of pairwise cosines", x_axis_type="log",
    )  # fmt: skip
    in_millions(made.xaxis[0])
    made.line(
        [peer.parameters for peer in front], [peer.value for peer in front],
        color=TEACHER, line_dash="dashed", line_width=2, legend_label="Pareto front",
    )  # fmt: skip
    for label, colour, size, peers in (
        ("other students", STUDENT, 9, [p for p in evidence.peers if p.id != mine]),
        ("this student", STRANGE, 13, [p for p in evidence.peers if p.id == mine]),
    ):
        source = ColumnDataSource(
            {
                "parameters": [p.parameters for p in peers],
                "value": [p.value for p in peers],
                "name": [p.name for p in peers],
                "latency": [
                    "–" if p.latency_ms is None else f"{p.latency_ms:.1f} ms" for p in peers
                ],
            }
        )
        points = made.scatter("parameters", "value", source=source, size=size, color=colour,
                              legend_label=label)  # fmt: skip
        hover(made, [("", "@name"), ("parameters", "@parameters{0.00a}"), ("latency", "@latency"),
                     ("Pearson", "@value{0.000}")], points)  # fmt: skip
    legend_above(made)
    return made
