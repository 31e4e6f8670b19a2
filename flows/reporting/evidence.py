"""What a report is made of: stored embeddings, records, and a way to the photos themselves.

Legend: ``N`` photos, ``D`` teacher width, ``K`` width of the space that the student answers in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.config.run import RunConfig
from flows.reporting.measures import Measures
from flows.reporting.summary import Row

Array = NDArray[np.float32]
TEST = "test"


@dataclass(frozen=True)
class Photo:
    """A photo of a set, by its place in it."""

    dataset: str
    """``test``, or the name of an OOD set."""
    row: int


@dataclass(frozen=True)
class Picture:
    """A photo as a page shows it."""

    name: str
    """Its file."""
    label: str | None
    image: str | None
    """JPEG as data URI; None where the photo is not there any more."""


Pictures = Callable[[Sequence[Photo]], list[Picture]]


@dataclass(frozen=True)
class SeenSet:
    """Photos of a set, seen by teacher and student; row i of everything is the same photo.

    Of a large set, photos spread evenly over it. Tables are float32.
    """

    name: str
    count: int
    """How many photos the set has."""
    rows: NDArray[np.int64]
    """Which of them these are."""
    labels: Sequence[str | None]
    teacher: Array
    """Embeddings in its full space, (N, D)."""
    student: Array
    """(N, K)."""
    asked: Array | None
    """What the student was trained to give; None where nothing of the kind was asked of it."""
    answer: Array | None
    """What it gives, through its training head where that is what was trained."""

    def __len__(self) -> int:
        return len(self.rows)

    def photo(self, index: int) -> Photo:
        return Photo(self.name, int(self.rows[index]))

    @property
    def counted(self) -> str:
        """Say how many photos these are."""
        return f"{len(self):,}" + (f" of {self.count:,}" if len(self) < self.count else "")


@dataclass(frozen=True)
class Peer:
    """A student of the root whose numbers compare with this one's."""

    id: str
    name: str
    parameters: int
    latency_ms: float | None
    value: float


@dataclass(frozen=True)
class Evidence:
    """Everything a report says is read off this."""

    config: RunConfig
    summary: Sequence[Row]
    measures: Measures
    test: SeenSet
    ood: Sequence[SeenSet]
    tables: Mapping[str, pl.DataFrame]
    """What the evaluation stored beside its record, by name.

    ood_scores: subject, dataset, score, of a set in the order of its photos; classes: one row for
    each label, where photos have some; groups: one for each value of a column that is written
    beside them, where the config names columns; corruptions: one for each corruption and severity,
    where they were measured.
    """
    history: pl.DataFrame
    """The training curve: epoch, loss, learning_rate; with select 'best', validation."""
    mapping: dict[str, Any]
    student: dict[str, Any]
    evaluation: dict[str, Any]
    export: dict[str, Any]
    teachers: Sequence[dict[str, Any]]
    """What determines the teachers' features, the first teacher first."""
    peers: Sequence[Peer]
    pictures: Pictures

    @property
    def sets(self) -> list[SeenSet]:
        return [self.test, *self.ood]
