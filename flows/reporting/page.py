"""The model card and the report page that lie beside an exported model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.config.run import RunConfig
from flows.reporting.evidence import TEST, Evidence
from flows.reporting.limits import limits
from flows.reporting.plots import embedded
from flows.reporting.sections.cost import cost
from flows.reporting.sections.embedding_map import embedding_map
from flows.reporting.sections.failures import failures
from flows.reporting.sections.faithfulness import faithfulness
from flows.reporting.sections.making import making
from flows.reporting.sections.neighbours import neighbours
from flows.reporting.sections.shared_space import shared_space
from flows.reporting.sections.unknown import unknown
from flows.reporting.summary import Row
from flows.templates import render

SECTIONS = (
    faithfulness, neighbours, embedding_map, shared_space, unknown, failures, cost, making,
)  # fmt: skip
"""In the order of the page."""


@dataclass(frozen=True)
class Tile:
    """A number that is seen first."""

    value: str
    label: str


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
        limits=limits(record["metrics"]),
        timings=list(record["formats"]["onnx"]["speed_ms"]),
    )


def report_page(evidence: Evidence) -> str:
    """Return a self-contained HTML page: what was measured, in words, numbers and pictures."""
    sections = [section(evidence) for section in SECTIONS]
    plots = embedded([section.plots for section in sections])
    config, export = evidence.config, evidence.export
    return render(
        "report.html.jinja",
        title=f"{config.student.title} ⟵ {config.teacher.name}",
        subtitle=f"{config.data.name} · {export['provenance']['created']} · {_check(export)}",
        tiles=_tiles(evidence),
        sections=sections,
        everything=evidence.measures.table(lambda _: True),
        places=_Places(plots.places),
        plots=plots,
        percent=lambda share: f"{100 * share:.1f}%",
    )


class _Places(dict[str, str]):
    """Where plots are drawn; nowhere, where there is none of a name."""

    def __init__(self, places: Mapping[str, str]) -> None:
        super().__init__(places)

    def __missing__(self, name: str) -> str:
        return ""


def _tiles(evidence: Evidence) -> list[Tile]:
    measures, export = evidence.measures, evidence.export
    found = [
        Tile(form.format(value), label)
        for subject, name, form, label in (
            (measures.answers, "r2_to_mapped", "{:.0%}", "of the teacher's variance explained"),
            (measures.answers, "same_photo_at_1", "{:.0%}", "same photo first in its index"),
            ("student", "pairwise_pearson", "{:.3f}", "Pearson of pairwise cosines"),
        )
        if (value := measures.value(subject, TEST, name)) is not None
    ]
    size, of_teacher = evidence.student["parameters"], export["teacher_parameters"]
    beside = "" if of_teacher is None else f", the teacher has {of_teacher / 1e6:.2f} M"
    return [
        *found,
        Tile(f"{size / 1e6:.2f} M", f"parameters{beside}"),
        Tile(f"{export['latency_ms']['student_onnx']:.1f} ms", "a photo, on this machine's CPU"),
    ]


def _check(record: dict[str, Any]) -> str:
    found = record["verification"]
    sizes = ", ".join(str(size) for size in found["batch_sizes"])
    return (
        f"ONNX Runtime against PyTorch on {found['photos']} photos at batch sizes {sizes}: "
        f"smallest cosine {found['smallest_cosine']:.7f}"
    )
