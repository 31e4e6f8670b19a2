"""Does it find the same photos? Neighbours by the teacher and by the student, as photos."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.reporting.evidence import Evidence, Picture
from flows.reporting.sections.base import Section
from tintem_core.evaluation.neighbours import nearest, shared_share

_SHOWN = 5
_WORST, _USUAL, _BEST = 6, 2, 2


@dataclass(frozen=True)
class Found:
    """A neighbour: its picture, and whether the other one finds it among as many."""

    picture: Picture
    cosine: float
    is_shared: bool


@dataclass(frozen=True)
class Query:
    """A photo, and its nearest by teacher and by student."""

    kind: str
    picture: Picture
    shared: int
    teacher: Sequence[Found]
    student: Sequence[Found]


@dataclass(frozen=True, kw_only=True)
class Neighbours(Section):
    """Some photos with their neighbours, the worst disagreements first."""

    name = "neighbours"
    title = "Does it find the same photos?"
    queries: Sequence[Query] = ()


def neighbours(evidence: Evidence) -> Neighbours:
    """Compare whom teacher and student find nearest among the test photos."""
    test = evidence.test
    reach = min(_SHOWN, len(test) - 2)
    if reach < 1:
        return Neighbours(
            says=(),
            unmeasured=(f"neighbours, because {len(test)} test photos are too few.",),
        )
    by_teacher, by_student = (
        nearest(table, table, reach, exclude_self=True) for table in (test.teacher, test.student)
    )
    shared_N = np.rint(reach * shared_share(by_teacher[1], by_student[1])).astype(int)
    queries = _queries(evidence, by_teacher, by_student, shared_N)
    return Neighbours(says=tuple(_says(evidence, shared_N, reach)), queries=queries)


def _says(evidence: Evidence, shared_N: NDArray[np.int64], reach: int) -> list[str]:
    test = evidence.test
    chance = reach * reach / (len(test) - 1)
    said = [
        f"Of the {reach} photos that the teacher finds nearest among {test.counted} test photos, "
        f"the student finds {shared_N.mean():.1f} on average; at random it would be {chance:.1f}."
    ]
    none = int((shared_N == 0).sum())
    said.append(
        "Not one is shared by teacher and student for "
        f"{none:,} of the {len(test):,} photos ({none / len(test):.0%})."
        if none
        else "For every photo at least one is shared by teacher and student."
    )
    return said


def _queries(
    evidence: Evidence,
    by_teacher: tuple[NDArray[np.float32], NDArray[np.int64]],
    by_student: tuple[NDArray[np.float32], NDArray[np.int64]],
    shared_N: NDArray[np.int64],
) -> list[Query]:
    test = evidence.test
    chosen = _chosen(shared_N)
    rows = [
        row
        for i, _ in chosen
        for row in (i, *by_teacher[1][i].tolist(), *by_student[1][i].tolist())
    ]
    pictures = dict(zip(rows, evidence.pictures([test.photo(r) for r in rows]), strict=True))

    def found(mine: tuple[NDArray[np.float32], NDArray[np.int64]], i: int) -> list[Found]:
        both = np.intersect1d(by_teacher[1][i], by_student[1][i])
        return [
            Found(pictures[int(row)], float(cosine), bool(row in both))
            for cosine, row in zip(mine[0][i], mine[1][i], strict=True)
        ]

    return [
        Query(kind, pictures[i], int(shared_N[i]), found(by_teacher, i), found(by_student, i))
        for i, kind in chosen
    ]


def _chosen(shared_N: NDArray[np.int64]) -> list[tuple[int, str]]:
    """Return which photos are shown: the worst, some in the middle, the best."""
    order = np.argsort(shared_N, kind="stable").tolist()
    middle = len(order) // 2
    kinds = {
        **dict.fromkeys(order[-_BEST:], "among the best"),
        **dict.fromkeys(order[middle : middle + _USUAL], "in the middle"),
        **dict.fromkeys(order[:_WORST], "among the worst"),
    }
    return [(i, kinds[i]) for i in order if i in kinds]
