"""Is it faithful? What the student says of photos beside what its teacher says of them."""

from dataclasses import dataclass

import numpy as np
from bokeh.models import ColumnDataSource, Slope
from bokeh.plotting import figure
from numpy.typing import NDArray

from flows.reporting.evidence import TEST, Evidence, SeenSet
from flows.reporting.measures import Measures, MeasureTable
from flows.reporting.plots import STUDENT, TEACHER, hover, plot
from flows.reporting.sections.base import Section
from tintem_core.evaluation.cosine import unit_rows

_PAIRS, _SEED = 2_000, 0


@dataclass(frozen=True, kw_only=True)
class Faithfulness(Section):
    """The measures with floor and ceiling, and the cosines of pairs of photos."""

    name = "faithfulness"
    title = "Is it faithful?"
    table: MeasureTable


def faithfulness(evidence: Evidence) -> Faithfulness:
    """Say how much of what the teacher says the student says too."""
    measures = evidence.measures
    unmeasured = []
    if measures.value(measures.answers, TEST, "cosine_to_mapped") is None:
        unmeasured.append(
            "the distance to the mapped teacher, because the objective "
            f"{evidence.config.training.objective} does not ask for the teacher's embedding."
        )
    return Faithfulness(
        says=tuple(_says(evidence.test, measures)),
        unmeasured=tuple(unmeasured),
        table=measures.of("target", "angles", dataset=TEST),
        plots={"pairs": _pairs(evidence.test)},
    )


def _says(test: SeenSet, measures: Measures) -> list[str]:
    said, who = [], measures.answers
    explained = measures.value(who, TEST, "r2_to_mapped")
    cosine, constant = (measures.value(s, TEST, "cosine_to_mapped") for s in (who, "constant"))
    if explained is not None:
        unseen = f"On {test.count:,} photos that it never saw, the student explains"
        said.append(
            f"{unseen} {explained:.0%} of the variance of what the teacher says through the "
            "mapping."
            if explained >= 0
            else f"{unseen} nothing of what the teacher says through the mapping: R² is "
            f"{explained:.2f}, where their mean as the answer to every photo has 0."
        )
    if cosine is not None and constant is not None and constant < 1:
        gone = (cosine - constant) / (1 - constant)
        worth = f"A cosine of {cosine:.3f} is worth this: the same answer to every photo has"
        said.append(
            f"{worth} {constant:.3f}, so the student has gone {gone:.0%} of the way from there "
            "to 1."
            if gone >= 0
            else f"{worth} more, {constant:.3f}."
        )
    pearson = measures.value("student", TEST, "pairwise_pearson")
    if pearson is not None:
        said.append(
            f"Which pairs of photos are alike, student and teacher agree on with a correlation of "
            f"{pearson:.3f}."
        )
    return said


def pairs_of(test: SeenSet) -> dict[str, NDArray[np.float32]]:
    """Return the cosines of at most 2,000 pairs of photos, by teacher and by student, (P,) each."""
    count = len(test)
    rng = np.random.default_rng(_SEED)
    every = count * (count - 1) // 2
    first, second = np.triu_indices(count, 1) if every <= _PAIRS else _drawn(rng, count)
    return {
        who: np.einsum("pk,pk->p", units[first], units[second]).astype(np.float32)
        for who, units in (
            ("teacher", unit_rows(test.teacher)),
            ("student", unit_rows(test.student)),
        )
    }


def _pairs(test: SeenSet) -> figure:
    """Plot the cosine of some pairs of photos, by the teacher and by the student."""
    cosines = pairs_of(test)
    made = plot(
        f"Cosine of {len(cosines['teacher']):,} pairs of test photos",
        "by the teacher",
        "by the student",
        height=420,
    )
    made.add_layout(Slope(gradient=1, y_intercept=0, line_color=TEACHER, line_dash="dashed"))
    points = made.scatter(
        "teacher", "student", source=ColumnDataSource(cosines), size=5, alpha=0.45,
        color=STUDENT, line_color=None,
    )  # fmt: skip
    hover(made, [("teacher", "@teacher{0.000}"), ("student", "@student{0.000}")], points)
    return made


def _drawn(
    rng: np.random.Generator, count: int
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    first = rng.integers(0, count, _PAIRS)
    # Never the photo itself.
    return first, (first + rng.integers(1, count, _PAIRS)) % count
