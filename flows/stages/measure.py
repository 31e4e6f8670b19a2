"""What is measured of the embeddings of teacher, mapped teacher and student."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np

from flows.config.run import RunConfig
from flows.stages.measure_classes import class_rows
from flows.stages.measure_outliers import outlier_rows
from flows.stages.spaces import Array, Classes, Found, Spaces
from tintem_core.evaluation.bootstrap import Draws, MetricRow
from tintem_core.evaluation.faithfulness import faithfulness, pearson_over_sets
from tintem_core.evaluation.metrics import ALL
from tintem_core.evaluation.shared_space import shared_space
from tintem_core.evaluation.to_mapped import constant_rows, mean_direction


def measure(
    config: RunConfig, train: Spaces, sets: dict[str, Spaces], classes: Classes | None
) -> list[dict[str, Any]]:
    """Measure a student: rows of subject, dataset and the fields of a MetricRow.

    Args:
        config: the run.
        train: embeddings of the photos it learned from.
        sets: embeddings of the test photos, under ``test``, then of the OOD sets by their names.
        classes: of the photos; None where they have none.
    """
    settings, drawn = config.evaluation, draws(config)
    parts = chain(
        _faithfulness_rows(train, sets, drawn),
        _shared_space_rows(sets["test"], drawn),
        () if classes is None else class_rows(settings, train, sets, classes, drawn),
        outlier_rows(settings, train, sets, classes, drawn),
    )
    return as_rows(parts)


def draws(config: RunConfig) -> Draws:
    """Return what the intervals of a run are drawn with."""
    return {"seed": config.training.seed, "resamples": config.evaluation.resamples}


def as_rows(found: Iterable[tuple[str, str, MetricRow]]) -> list[dict[str, Any]]:
    """Return what was measured as a record has it: subject, dataset, fields of the row."""
    return [{"subject": who, "dataset": where, **asdict(row)} for who, where, row in found]


def _faithfulness_rows(train: Spaces, sets: dict[str, Spaces], drawn: Draws) -> Found:
    known = train.asked()
    centre = None if known is None else mean_direction(known[1])
    for name, spaces in sets.items():
        compared = [("student", spaces.mapped, spaces.student)]
        if spaces.head is not None:
            compared.append(("head", spaces.teacher, spaces.head))
        compared += [(who, None, given) for who, given in spaces.bounds(drawn["seed"])]
        for who, target, given in compared:
            for row in faithfulness(spaces.teacher, target, given, centre_K=centre, **drawn):
                yield who, name, row
        if (asked := spaces.asked()) is not None and centre is not None:
            for row in constant_rows(asked[1], centre, **drawn):
                yield "constant", name, row
    if len(sets) > 1:
        (_, teacher), *others = _together(spaces.subjects() for spaces in sets.values())
        bounds = _together(spaces.bounds(drawn["seed"]) for spaces in sets.values())
        for who, given in (*others, *bounds):
            yield who, ALL, pearson_over_sets(teacher, given, **drawn)


def _together(sets: Iterable[Iterable[tuple[str, Array]]]) -> Iterator[tuple[str, Array]]:
    """Put the embeddings of all sets one after the other, subject by subject."""
    for parts in zip(*sets, strict=True):
        yield parts[0][0], np.concatenate([embeddings for _, embeddings in parts])


def _shared_space_rows(test: Spaces, drawn: Draws) -> Found:
    if (asked := test.asked()) is not None:
        who, index, queries = asked
        for row in shared_space(test.teacher, index, queries, **drawn):
            yield who, "test", row
