"""What each stage hands to the next: ids, and whether the work was already there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flows.stages.datasets import Dataset
from flows.summary import Photos


@dataclass(frozen=True)
class Indexed:
    """The images of a run, by dataset name."""

    data: Dataset
    listed_ood: dict[str, Dataset]
    """The OOD sets as they were found."""
    listed_support: dict[str, Dataset] = field(default_factory=dict)
    """The sets of support images as they were found."""

    @cached_property
    def ood(self) -> dict[str, Dataset]:
        """The OOD sets without photos of the data: these are not out of its distribution."""
        return {n: found.without_photos_of(self.data) for n, found in self.listed_ood.items()}

    @cached_property
    def support(self) -> dict[str, Dataset]:
        """The support images without those that the student is measured on, or learns anyhow."""
        known = [self.data, *self.listed_ood.values()]
        kept = self.listed_support
        for dataset in known:
            kept = {name: found.without_photos_of(dataset) for name, found in kept.items()}
        return kept

    def photos(self) -> Photos:
        """Count the photos of the main dataset."""
        return Photos(
            train=len(self.data.keys("train")),
            test=len(self.data.keys("test")),
            unreadable=self.data.manifest.quarantine.height,
        )

    def datasets(self) -> list[Dataset]:
        return [self.data, *self.ood.values()]

    def dataset(self, name: str) -> Dataset:
        return {self.data.name: self.data, **self.ood, **self.support}[name]


def latents_identity(views: str, others: Sequence[tuple[str, float]]) -> dict[str, object]:
    """Return which training latents these are: the first teacher's cache, others with weights."""
    return {"cache": views, "others": [list(other) for other in others]}


@dataclass(frozen=True)
class TeacherCaches:
    """What one of the other teachers of a run left: see :class:`Extracted`."""

    model: str
    weight: float
    views: str
    evaluation: dict[str, str]


@dataclass(frozen=True)
class Extracted:
    """Feature caches: training views, and the evaluation view of every dataset by name.

    Among the datasets are the sets of support images.
    """

    views: str
    evaluation: dict[str, str]
    reused: bool
    others: tuple[TeacherCaches, ...] = ()
    mapped_tokens: tuple[str, ...] = ()
    """With cache.keep_mapped: caches of tokens through the mapping, one per `taught_views`."""

    def identity(self) -> dict[str, object]:
        """Return which training latents these are."""
        return latents_identity(self.views, [(o.views, o.weight) for o in self.others])


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A finished result of a stage: its id, what its record says, whether it was there already."""

    id: str
    record: dict[str, Any]
    reused: bool


class Mapped(Stored):
    """The mapping."""


class Trained(Stored):
    """The student."""


class Evaluated(Stored):
    """The evaluation."""


@dataclass(frozen=True, kw_only=True)
class Exported(Stored):
    """The published ONNX model, and where it lies."""

    location: str
