"""What a run measured, as artifacts that Prefect's pages show: tables and figures."""

import io
from collections.abc import Sequence
from typing import Any

import polars as pl
from matplotlib.figure import Figure
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.config.run import RunConfig
from flows.reporting.figures import (
    neighbour_sheet,
    ood_figure,
    pairs_figure,
    png,
    training_figure,
)
from flows.reporting.summary import Row
from flows.stages.models import load_history
from flows.stages.pipeline import Pipeline
from storage.artifacts import read_file
from storage.identity import slugify

_LINES = 4


def publish_training(pipeline: Pipeline) -> None:
    """Show the training curve."""
    about = f"{_names(pipeline.config)}: {pipeline.trained.id}"
    create_markdown_artifact(
        _training(pipeline), key=_key(pipeline.config, "training-curve"), description=about
    )


def publish_evaluation(pipeline: Pipeline) -> None:
    """Show every metric with its interval, and how the OOD scores lie."""
    about = f"{_names(pipeline.config)}: {pipeline.evaluated.id}"
    create_table_artifact(
        [_metric(row) for row in pipeline.evaluated.record["rows"]],
        key=_key(pipeline.config, "metrics"),
        description=f"{about}; low and high bound bootstrap 95% intervals",
    )
    if pipeline.config.evaluation.ood:
        create_markdown_artifact(
            _ood_scores(pipeline), key=_key(pipeline.config, "ood-scores"), description=about
        )


def publish_summary(config: RunConfig, rows: Sequence[Row], location: str) -> None:
    """Show the summary table, and where the exported model lies."""
    create_table_artifact(
        [
            {"of": row.group, "what": row.label, "teacher": row.teacher, "student": row.student}
            for row in rows
        ],
        key=_key(config, "summary"),
        description=f"{_names(config)}, exported to {location}",
    )


def publish_report(pipeline: Pipeline, rows: Sequence[Row]) -> None:
    """Show everything about a finished run on one page."""
    config, groups = pipeline.config, dict.fromkeys(row.group for row in rows)
    lines = [f"# {_names(config)}", f"Exported to `{pipeline.exported.location}`", ""]
    lines += ["| | teacher | student |", "|---|---|---|"]
    for group in groups:
        lines.append(f"| **{group}** | | |")
        lines += [f"| {r.label} | {r.teacher} | {r.student} |" for r in rows if r.group == group]
    lines += ["", "Square brackets: bootstrap 95% intervals over photos.", ""]
    lines += _seen(pipeline)
    lines += ["## Training", _training(pipeline)]
    if config.evaluation.ood:
        lines += ["## Out-of-distribution scores", _ood_scores(pipeline)]
    create_markdown_artifact(
        "\n".join(lines),
        key=_key(config, "report"),
        description=f"{_names(config)}: {pipeline.exported.id}",
    )


def _key(config: RunConfig, what: str) -> str:
    """Return an artifact's key: on a server that projects share, each has its own."""
    return slugify(f"{config.data.name}-{config.student.model}-{what}")


def _seen(pipeline: Pipeline) -> list[str]:
    """Answer the first two questions of the report, in its words."""
    # Bokeh takes a second to import, which a run that ends before its export need not wait.
    from flows.reporting.sections.faithfulness import faithfulness, pairs_of
    from flows.reporting.sections.neighbours import neighbours
    from flows.stages.report import gather

    evidence = gather(pipeline.finished, pipeline.exported.record)
    faithful, found = faithfulness(evidence), neighbours(evidence)
    lines = [f"## {faithful.title}", *faithful.says]
    lines += [_image(pairs_figure(pairs_of(evidence.test)))]
    lines += [f"## {found.title}", *found.says]
    if found.queries:
        sheet = neighbour_sheet(found.queries[:_LINES])
        lines += [
            "A photo, its nearest by the teacher, and by the student; the worst first:",
            f"![photos](data:image/jpeg;base64,{sheet})",
        ]
    return ["\n\n".join([*lines, ""])]


def _names(config: RunConfig) -> str:
    return f"{config.student.name} against {config.teacher.name} on {config.data.name}"


def _metric(row: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: round(row[name], 4) for name in ("value", "low", "high")}
    return {name: row[name] for name in ("subject", "dataset", "name")} | numbers | {"n": row["n"]}


def _training(pipeline: Pipeline) -> str:
    history = load_history(pipeline.root, pipeline.trained)
    loss = pipeline.trained.record["metrics"]["final_loss"]
    config = pipeline.config
    name = config.training.loss_name(joint=config.mapping.fit == "joint")
    return f"{_image(training_figure(history, name))}\n\nLoss at the end: {loss:.4f}\n"


def _ood_scores(pipeline: Pipeline) -> str:
    found = pipeline.evaluated.id
    scores = read_file(pipeline.root, "evaluations", found, "ood_scores.parquet")
    return _image(ood_figure(pl.read_parquet(io.BytesIO(scores)))) + "\n"


def _image(figure: Figure) -> str:
    # Not an image artifact: beneath it, the page prints the whole picture as an address.
    return f"![figure](data:image/png;base64,{png(figure, dpi=100)})"
