"""How was it made? The training curve, the settings, and every id and hash that tells it apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from bokeh.models import ColumnDataSource, LinearAxis, Range1d
from bokeh.plotting import figure

from flows.reporting.evidence import Evidence
from flows.reporting.plots import STRANGE, STUDENT, hover, legend_above, plot
from flows.reporting.sections.base import Section


@dataclass(frozen=True)
class Fact:
    """A name and what it is."""

    what: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Making(Section):
    """The curve, what identifies the parts, the versions, and the config."""

    name = "making"
    title = "How was it made?"
    facts: Sequence[Fact]
    config: str
    """YAML, with what differs from the defaults."""


def making(evidence: Evidence) -> Making:
    """Tell what a repetition needs."""
    record, config = evidence.student, evidence.config
    settings = config.model_dump(mode="json", exclude_defaults=True)
    made = record["provenance"]
    device = made["gpu"] or f"{made['cores']} CPU cores"
    said = (
        f"Trained for {record['epochs']} epochs ({record['steps']:,} steps, "
        f"{record['seconds']:,.0f} s) on {device}, "
        f"{made['created'][:10]}; the loss at the end is {record['metrics']['final_loss']:.4f}."
    )
    return Making(
        says=(said, *_selected(record)),
        facts=_facts(evidence),
        config=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        plots={"training": _curve(evidence)},
    )


def _selected(record: dict[str, Any]) -> list[str]:
    chosen = record.get("selected")
    if chosen is None:
        return []
    return [
        f"Its weights are those of epoch {chosen['epoch']}, the best by {chosen['by']} on "
        f"{chosen['validation_photos']:,} photos held out of the training."
    ]


def _facts(evidence: Evidence) -> list[Fact]:
    export = evidence.export
    facts = [
        Fact("student", export["student"]),
        Fact("evaluation", evidence.evaluation["id"]),
        Fact("mapping", evidence.mapping["id"]),
        Fact("export", export["id"]),
    ]
    facts += [
        Fact(f"photos of {name} (digest)", digest)
        for name, digest in evidence.evaluation["spec"]["images"].items()
    ]
    for teacher in evidence.teachers:
        facts += [
            Fact(f"teacher's {name}", str(value)) for name, value in teacher.items()
            if name != "licence"
        ]  # fmt: skip
    weights = evidence.student["files"]["student.safetensors"]["sha256"]
    facts.append(Fact("student's weights (SHA-256)", weights))
    facts.append(Fact("ONNX file (SHA-256)", export["files"][export["model"]["file"]]["sha256"]))
    facts += [
        Fact(f"licence of {teacher['name']}", str(teacher["licence"]))
        for teacher in evidence.teachers
    ]
    packages = evidence.export["provenance"]["packages"]
    facts += [Fact(name, version) for name, version in packages.items() if version is not None]
    return [*facts, Fact("Python", export["provenance"]["python"])]


def _curve(evidence: Evidence) -> figure:
    history, config = evidence.history, evidence.config
    loss = config.training.loss_name(joint=config.mapping.fit == "joint")
    source = ColumnDataSource({name: history[name].to_list() for name in history.columns})
    made = plot("Training", "epoch", loss, y_axis_type="log", height=280)
    line = made.line(
        "epoch", "loss", source=source, color=STUDENT, line_width=2.5, legend_label="loss"
    )
    dots = made.scatter("epoch", "loss", source=source, color=STUDENT, size=6)
    hover(made, [("epoch", "@epoch"), ("loss", "@loss{0.0000}")], line, dots)
    if "validation" in history.columns:
        scores = history.drop_nulls("validation")
        low, high = np.quantile(scores["validation"].to_numpy(), [0, 1])
        room = max(0.05 * (high - low), 1e-6)
        made.extra_y_ranges = {"score": Range1d(low - room, high + room)}
        made.add_layout(
            LinearAxis(
                y_range_name="score",
                axis_label=f"{evidence.student['selected']['by']} of the photos held out",
            ),
            "right",
        )
        made.line(
            scores["epoch"].to_list(), scores["validation"].to_list(), y_range_name="score",
            color=STRANGE, line_width=2.5, legend_label="photos held out",
        )  # fmt: skip
    legend_above(made)
    return made
