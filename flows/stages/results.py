"""What each stage hands to the next: ids, and whether the work was already there."""

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import polars as pl

from flows.config.run import RunConfig
from flows.data.caches import Extracted, TeacherCaches
from flows.data.dataset import Dataset
from flows.reporting.summary import PhotoCounts
from storage.artifacts import read_record
from storage.errors import MissingObjectError
from storage.identity import digest
from storage.images import Manifest
from storage.root import Root

# Looking for the neighbours of every test photo would take a hundred times as long for ten times as
# many photos. As many as ImageNet's validation set has.
MOST_TEST_PHOTOS = 50_000
# Lies beside an export, and is no part of it.
REPORT = "report.html"


@dataclass(frozen=True)
class Indexed:
    """The images of a run, by dataset name."""

    data: Dataset
    listed_ood: dict[str, Dataset]
    """The OOD sets as they were found."""
    listed_support: dict[str, Dataset] = field(default_factory=dict)
    """The sets of support images as they were found."""
    group_columns: tuple[str, ...] = ()
    """Columns by whose values the test photos are told apart; see ``evaluation.groups``."""

    @cached_property
    def groups(self) -> pl.DataFrame:
        """What the group columns say of the test photos, in their order; read from the source."""
        if not self.group_columns:
            return pl.DataFrame()
        return self.data.notes("test", self.group_columns)

    def groups_identity(self) -> dict[str, object]:
        """Return, where there are groups, which photos are in which."""
        values = {column.name: digest(column.to_list()) for column in self.groups}
        return {"groups": values} if values else {}

    @cached_property
    def ood(self) -> dict[str, Dataset]:
        """The OOD sets without photos of the data: these are not out of its distribution."""
        return {n: found.without_photos_of(self.data) for n, found in self.listed_ood.items()}

    @cached_property
    def measured(self) -> "Indexed":
        """The images with no more test photos than a student is measured on.

        Keys are digests of content, so that the smallest ones are a draw that stays as photos come.
        """
        surplus = sorted(self.data.keys("test"))[MOST_TEST_PHOTOS:]
        if not surplus:
            return self
        return replace(self, data=self.data.without(surplus), listed_ood=self.ood)

    @cached_property
    def support(self) -> dict[str, Dataset]:
        """The support images without those that the student is measured on, or learns anyhow."""
        known = [self.data, *self.listed_ood.values()]
        kept = self.listed_support
        for dataset in known:
            kept = {name: found.without_photos_of(dataset) for name, found in kept.items()}
        return kept

    def photos(self) -> PhotoCounts:
        """Count the photos of the main dataset."""
        return PhotoCounts(
            train=len(self.data.keys("train")),
            test=len(self.data.keys("test")),
            unreadable=self.data.manifest.quarantine.height,
        )

    def datasets(self) -> list[Dataset]:
        return [self.data, *self.ood.values()]

    def dataset(self, name: str) -> Dataset:
        return {self.data.name: self.data, **self.ood, **self.support}[name]


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """A finished result of a stage: its id, what its record says, whether it was there already."""

    id: str
    record: dict[str, Any]
    reused: bool


class Mapped(StageResult):
    """The mapping."""


class Trained(StageResult):
    """The student."""


class Evaluated(StageResult):
    """The evaluation."""


@dataclass(frozen=True)
class Finished:
    """A trained and measured student, with all that it was made from: what an export publishes."""

    config: RunConfig
    root: Root
    indexed: Indexed
    extracted: Extracted
    mapped: Mapped
    trained: Trained
    evaluated: Evaluated


@dataclass(frozen=True, kw_only=True)
class Exported(StageResult):
    """The published ONNX model, and where it lies."""

    location: str


def to_ids(indexed: Indexed, stored: Extracted, mapped: Mapped) -> dict[str, Any]:
    """Tell what to train and evaluate on, as JSON can hold it."""
    return {
        "images": indexed.data.manifest.id,
        "ood": {name: found.manifest.id for name, found in indexed.listed_ood.items()},
        "support": {name: found.manifest.id for name, found in indexed.listed_support.items()},
        "groups": list(indexed.group_columns),
        "caches": asdict(stored),
        "mapping": mapped.id,
    }


def from_ids(root: Root, ids: dict[str, Any]) -> tuple[Indexed, Extracted, Mapped]:
    """Find it again.

    Raises:
        MissingObjectError: if something is not in the root any more.
    """

    def loaded(sets: dict[str, str]) -> dict[str, Dataset]:
        return {name: Dataset(Manifest.load(root, id), root.reading) for name, id in sets.items()}

    others = tuple(TeacherCaches(**other) for other in ids["caches"]["others"])
    record = read_record(root, "mappings", ids["mapping"])
    if record is None:
        raise MissingObjectError(f"{root.url} holds no mapping {ids['mapping']} any more.")
    return (
        Indexed(
            Dataset(Manifest.load(root, ids["images"]), root.reading),
            loaded(ids["ood"]),
            loaded(ids["support"]),
            tuple(ids["groups"]),
        ),
        Extracted(
            **{
                **ids["caches"],
                "others": others,
                "mapped_tokens": tuple(ids["caches"]["mapped_tokens"]),
            }
        ),
        Mapped(id=ids["mapping"], record=record, reused=True),
    )
