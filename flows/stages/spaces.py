"""The embeddings that an evaluation compares, and the classes of their images.

Legend: ``N`` images, ``D`` teacher width, ``K`` student width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from flows.data.dataset import Dataset
from flows.stages.map import apply
from tintem_core.evaluation.bootstrap import MetricRow
from tintem_core.evaluation.metrics import BOUNDS
from tintem_core.mapping.closed_form import random_rows
from tintem_core.objectives.base import Objective

Array = NDArray[np.float32]
Found = Iterator[tuple[str, str, MetricRow]]
"""Subject, dataset, and what was measured."""


@dataclass(frozen=True)
class Spaces:
    """Embeddings of the same images.

    ``mapped`` is what the student was trained to give, where its objective is that; ``head`` is the
    student seen through a baseline's training head, in the teacher's space.
    """

    teacher: Array
    student: Array
    mapped: Array | None = None
    head: Array | None = None

    def subjects(self) -> Iterator[tuple[str, Array]]:
        yield "teacher", self.teacher
        yield "student", self.student
        if self.head is not None:
            yield "head", self.head

    def asked(self) -> tuple[str, Array, Array] | None:
        """Who answers in a space of the teacher's, what it is asked for, and what it answers."""
        if self.mapped is not None:
            return "student", self.mapped, self.student
        return None if self.head is None else ("head", self.teacher, self.head)

    def bounds(self, seed: int) -> Iterator[tuple[str, Array]]:
        """What the angles of the student lie between: a mapping at random, and the fitted one."""
        if self.mapped is not None:
            width, dim = self.mapped.shape[1], self.teacher.shape[1]
            # More numbers than the teacher has cannot be orthogonal directions of its space.
            rows_KD = _random_rows(min(width, dim), dim, seed)
            yield BOUNDS[0], (self.teacher @ rows_KD.T).astype(np.float32)
            yield BOUNDS[1], self.mapped


# Every set of a run is mapped by the same ones.
_random_rows = lru_cache(maxsize=2)(random_rows)


def spaces_of(objective: Objective, teacher: Array, student: Array) -> Spaces:
    """See embeddings of the same images the way the student's objective does."""
    mapped = None if objective.mapping is None else apply(objective.mapping, teacher)
    with torch.inference_mode():
        head = objective.through_head(torch.from_numpy(student))
    return Spaces(teacher, student, mapped, None if head is None else head.numpy())


@dataclass(frozen=True)
class Classes:
    """Class numbers of the images of each set, -1 for one without a label."""

    names: tuple[str, ...]
    train: NDArray[np.int64]
    of: dict[str, NDArray[np.int64]]
    """By name of the set, ``test`` among them."""


def classes_of(data: Dataset, further: dict[str, Dataset]) -> Classes | None:
    """Number the classes of the train and test photos; None where one of the two has no label.

    Args:
        data: the run's own images.
        further: sets whose labels are of the same classes, by name; other labels are none.
    """
    if not data.is_labelled:
        return None
    train, test = data.labels("train"), data.labels("test")
    names = tuple(sorted({label for label in (*train, *test) if label is not None}))
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(names)}
    sets = {"test": test, **{name: found.labels() for name, found in further.items()}}
    train_N, *others = (
        np.array([numbers.get(label, -1) for label in labels], np.int64)
        for labels in (train, *sets.values())
    )
    return Classes(names, train_N, dict(zip(sets, others, strict=True)))
