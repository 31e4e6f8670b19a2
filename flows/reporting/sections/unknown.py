"""Does it know what it does not know? Scores of strange photos beside those of ordinary ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from bokeh.models import Span
from bokeh.plotting import figure
from numpy.typing import NDArray

from flows.reporting.evidence import TEST, Evidence, Photo, Picture
from flows.reporting.measures import MeasureTable
from flows.reporting.plots import COLOURS, TEACHER, legend_above, plot
from flows.reporting.sections.base import Section

_SHOWN, _BINS = 12, 40
_SCORES = {"nearest-cosine": "cosine to the nearest training photo"}


@dataclass(frozen=True)
class Scored:
    """A photo and the student's score of it."""

    picture: Picture
    score: float


@dataclass(frozen=True)
class Row:
    """Photos under a heading."""

    heading: str
    photos: Sequence[Scored]


@dataclass(frozen=True, kw_only=True)
class Unknown(Section):
    """How the scores lie, and the photos at their ends."""

    name = "unknown"
    title = "Does it know what it does not know?"
    table: MeasureTable
    galleries: Sequence[Row]
    rate: float
    """Share of the test photos that the threshold may take for strange."""


def unknown(evidence: Evidence) -> Unknown:
    """Say how well the student tells photos of another kind by their score."""
    names = [seen.name for seen in evidence.ood]
    scores = {
        who: {name: _scores(evidence.tables["ood_scores"], who, name) for name in (TEST, *names)}
        for who in ("teacher", "student")
    }
    return Unknown(
        says=tuple(_says(evidence, scores["student"])),
        unmeasured=() if names else (
            "photos of another kind, because the config names none (evaluation.ood); below are the "
            "strangest of the test photos.",
        ),
        table=evidence.measures.of("ood", "ood ranks"),
        galleries=_galleries(evidence, scores["student"]),
        rate=evidence.config.evaluation.false_alarm_rate,
        plots={
            f"scores_{who}": _histogram(evidence, who, of, _threshold(evidence, who))
            for who, of in scores.items()
        },
    )  # fmt: skip


def _scores(table: pl.DataFrame, who: str, dataset: str) -> NDArray[np.float32]:
    mine = table.filter((pl.col("subject") == who) & (pl.col("dataset") == dataset))
    return mine["score"].to_numpy()


def _threshold(evidence: Evidence, who: str) -> float:
    return float(evidence.evaluation["ood_thresholds"][who])


def _says(evidence: Evidence, scores: dict[str, NDArray[np.float32]]) -> list[str]:
    said = []
    limit = _threshold(evidence, "student")
    for seen in evidence.ood:
        of_student, of_teacher = (
            evidence.measures.value(who, seen.name, "auroc") for who in ("student", "teacher")
        )
        if of_student is None or of_teacher is None:
            continue
        caught = float(np.mean(scores[seen.name] < limit))
        said.append(
            f"{seen.name}: an ordinary photo scores above a strange one in {of_student:.1%} of all "
            f"cases (by the teacher {of_teacher:.1%}); a threshold with at most "
            f"{evidence.config.evaluation.false_alarm_rate:.0%} false alarms catches "
            f"{caught:.0%} of the {seen.count:,}."
        )
    return said


def _galleries(evidence: Evidence, scores: dict[str, NDArray[np.float32]]) -> list[Row]:
    strangest = np.argsort(scores[TEST], kind="stable")[:_SHOWN].tolist()
    heading = "The strangest test photos, by the student"
    rows = [_gallery(evidence, heading, TEST, scores[TEST], strangest)]
    limit = _threshold(evidence, "student")
    for seen in evidence.ood:
        mine = scores[seen.name]
        passed = np.flatnonzero(mine >= limit)
        if len(passed):
            heading = f"{seen.name}: the most ordinary of the {len(passed):,} above the threshold"
            shown = passed[np.argsort(-mine[passed], kind="stable")][:_SHOWN].tolist()
            rows.append(_gallery(evidence, heading, seen.name, mine, shown))
    return rows


def _gallery(
    evidence: Evidence,
    heading: str,
    name: str,
    scores: NDArray[np.float32],
    rows: Sequence[int],
) -> Row:
    pictures = evidence.pictures([Photo(name, row) for row in rows])
    return Row(
        heading,
        [Scored(picture, float(scores[row])) for row, picture in zip(rows, pictures, strict=True)],
    )


def _histogram(
    evidence: Evidence, who: str, scores: dict[str, NDArray[np.float32]], limit: float
) -> figure:
    every = np.concatenate(list(scores.values()))
    low, high = float(every.min()), float(every.max())
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    score = evidence.config.evaluation.ood_score
    made = plot(f"Scores by the {who}", _SCORES.get(score, score), "share of photos", height=280)
    for (name, values), colour in zip(scores.items(), _colours(len(scores)), strict=True):
        counts, _ = np.histogram(values, edges)
        made.quad(
            left=edges[:-1], right=edges[1:], bottom=0, top=counts / max(1, len(values)),
            color=colour, alpha=0.55, line_color=None, legend_label=name,
        )  # fmt: skip
    made.add_layout(
        Span(location=limit, dimension="height", line_color=TEACHER,
             line_dash="dashed", line_width=2)
    )  # fmt: skip
    legend_above(made)
    return made


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
