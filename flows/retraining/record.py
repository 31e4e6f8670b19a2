"""What stays of a night: its record, the scores of the new photos, its report page."""

import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import polars as pl

from flows.config.run import RunConfig
from flows.data.dataset import Dataset
from flows.provenance import provenance
from flows.retraining.changes import Changes, ModelLine
from flows.retraining.decision import Decision, describe_decision, headline
from flows.retraining.drift import Scored
from flows.retraining.pictures import DriftView, Example, contact_sheet, thumbnail
from flows.retraining.report import retraining_page
from flows.stages.results import Indexed

KIND = "nights"
REPORT, PHOTOS, STRANGEST = "report.html", "new_photos.parquet", "strangest.jpg"
# New photos that the record names; the table has all of them.
_NAMED = 10


def retraining_spec(
    config: RunConfig, indexed: Indexed, lines: Iterable[ModelLine], force: bool
) -> dict[str, Any]:
    """Return everything that a night's decisions follow from."""
    data = indexed.data
    return {
        "photos": {split: data.digest(split, labels=True) for split in ("train", "test")},
        "ood": {name: dataset.digest() for name, dataset in indexed.ood.items()},
        "lines": {
            line.id: {
                "over": None if line.latest is None else line.latest.number,
                "settings": line.settings,
                "nightly": line.config.nightly.identity(),
            }
            for line in lines
        },
        "evaluation": config.evaluation.model_dump(
            mode="json", include={"knn", "ood_neighbour", "resamples"}
        ),
        "export": config.export.model_dump(mode="json"),
        "force": force,
    }


def retraining_record(
    spec: Mapping[str, Any],
    indexed: Indexed,
    lines: Iterable[ModelLine],
    news: Mapping[str, Changes],
    scored: Mapping[str, Scored],
    decisions: Mapping[str, Decision],
) -> dict[str, Any]:
    """Describe what a night found and decided; what it decided is brought about afterwards."""
    lines = list(lines)
    photos = indexed.photos()
    return {
        "spec": spec,
        "outcome": headline(decision.outcome for decision in decisions.values()),
        "says": "; ".join(describe_decision(line, decisions[line.id]) for line in lines),
        "data": {
            "name": indexed.data.name,
            "manifest": indexed.data.manifest.id,
            **asdict(photos),
        },
        "lines": {
            line.id: _line_record(
                line, news[line.id], scored.get(news[line.id].against), decisions[line.id]
            )
            for line in lines
        },
        "provenance": provenance(),
    }


def retraining_files(
    night: str,
    record: Mapping[str, Any],
    data: Dataset,
    lines: Iterable[ModelLine],
    news: Mapping[str, Changes],
    scored: Mapping[str, Scored],
    shown: int,
) -> dict[str, bytes]:
    """Return the report page; where there are new photos, their scores and the strangest of them.

    Args:
        data: tonight's photos.
        scored: by what the new photos were held against.
        shown: how many of the strangest photos the page shows, at most.
    """
    files, tables, found = {}, [], []
    for reference, scores in scored.items():
        if scores.photos.height:
            tables.append(scores.photos.with_columns(reference=pl.lit(reference)))
        students = tuple(line.name for line in lines if news[line.id].against == reference)
        new = scores.photos["score"].to_numpy()
        pictures = [_shown(row, data) for row in scores.photos.head(shown).to_dicts()]
        found.append(DriftView(students, scores.as_record(), scores.usual, new, pictures))
    if tables:
        table = io.BytesIO()
        pl.concat(tables).write_parquet(table)
        files[PHOTOS] = table.getvalue()
    sheet = contact_sheet([one for strangers in found for one in strangers.shown])
    if sheet is not None:
        files[STRANGEST] = sheet
    files[REPORT] = retraining_page(night, record, found).encode()
    return files


def _shown(row: dict[str, Any], data: Dataset) -> Example:
    return Example(
        uri=row["uri"],
        split=row["split"],
        score=row["score"],
        is_strange=row["strange"],
        picture=thumbnail(data.reader, row["uri"], row["key"]),
        nearest_uri=row["nearest_uri"],
        nearest_picture=thumbnail(data.reader, row["nearest_uri"], row["nearest"]),
    )


def _line_record(
    line: ModelLine, news: Changes, scored: Scored | None, decision: Decision
) -> dict[str, Any]:
    latest = line.latest
    return {
        "name": line.name,
        **decision.as_record(),
        "says": describe_decision(line, decision),
        "latest": None
        if latest is None
        else {
            "number": latest.number,
            "student": latest.model.student,
            "export": latest.model.export,
        },
        "news": news.as_record(),
        "drift": None if scored is None else scored.as_record(),
        "strangest": []
        if scored is None
        else scored.photos.head(_NAMED).drop("key", "nearest").to_dicts(),
        "changed_settings": line.changed,
    }
