"""Can it stand in for the teacher in an index? The student's queries to what the teacher stored."""

from dataclasses import dataclass

import numpy as np
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure
from numpy.typing import NDArray

from flows.reporting.evidence import TEST, Evidence, SeenSet
from flows.reporting.measures import MeasureTable
from flows.reporting.plots import STUDENT, TEACHER, hover, legend_above, plot
from flows.reporting.sections.base import Section
from tintem_core.evaluation.cosine import unit_rows

_DEEPEST, _AT_ONCE, _ROUNDING = 50, 512, 1e-6


@dataclass(frozen=True, kw_only=True)
class SharedSpace(Section):
    """How often the student finds a photo in an index that the teacher filled."""

    name = "shared_space"
    title = "Can it stand in for the teacher in an index?"
    table: MeasureTable


def shared_space(evidence: Evidence) -> SharedSpace:
    """Say how deep in the teacher's index the student finds the photo that it was shown."""
    measures, test = evidence.measures, evidence.test
    table = measures.of("shared space")
    first = measures.value(measures.answers, TEST, "same_photo_at_1")
    if test.asked is None or test.answer is None or first is None:
        return SharedSpace(
            says=(),
            unmeasured=(
                "queries to the teacher's index, because the objective "
                f"{evidence.config.training.objective} trains the student into a space of its own."
                if test.asked is None
                else f"queries for a photo, because {test.count} test photos are too few.",
            ),
            table=table,
        )
    tenth = measures.value(measures.answers, TEST, "same_photo_at_10")
    said = (
        f"Index the {test.count:,} test photos once with the teacher, and query with the student: "
        f"the very photo comes first in {first:.0%} of the queries"
        + ("" if tenth is None else f", and among the first ten in {tenth:.0%}")
        + "."
    )
    return SharedSpace(
        says=(said,), table=table, plots={"index": _recall(test, test.asked, test.answer)}
    )


def _recall(
    test: SeenSet, index_NK: NDArray[np.float32], queries_NK: NDArray[np.float32]
) -> figure:
    """Plot how often the photo is among the first k, over k."""
    ranks_N = _ranks(index_NK, queries_NK)
    depths = np.arange(1, min(_DEEPEST, len(test)) + 1)
    source = ColumnDataSource(
        {
            "k": depths,
            "found": [float(np.mean(ranks_N < k)) for k in depths],
            "chance": depths / len(test),
        }
    )
    made = plot(
        f"The same photo among the first k, of {test.counted}", "k", "share of queries",
        y_range=(0, 1.03), height=280,
    )  # fmt: skip
    line = made.line(
        "k", "found", source=source, color=STUDENT, line_width=2.5, legend_label="student"
    )
    made.line("k", "chance", source=source, color=TEACHER, line_width=2, line_dash="dashed",
              legend_label="chance")  # fmt: skip
    legend_above(made)
    tips = [("k", "@k"), ("found", "@found{0.0%}"), ("chance", "@chance{0.0%}")]
    hover(made, tips, line)
    return made


def _ranks(index_NK: NDArray[np.float32], queries_NK: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many photos of the index are nearer to a query than its own is: (N,)."""
    index, queries = unit_rows(index_NK), unit_rows(queries_NK)
    own = np.einsum("nk,nk->n", index, queries)
    parts = [slice(start, start + _AT_ONCE) for start in range(0, len(own), _AT_ONCE)]
    nearer = [queries[part] @ index.T > own[part, None] + _ROUNDING for part in parts]
    return np.concatenate([each.sum(axis=1) for each in nearer])
