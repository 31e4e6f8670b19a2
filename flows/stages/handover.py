"""What students start from, told by ids to other processes that share the root."""

from dataclasses import asdict
from typing import Any

from flows.stages.datasets import Dataset
from flows.stages.results import Extracted, Indexed, Mapped, TeacherCaches
from storage.artifacts import read_record
from storage.errors import MissingObjectError
from storage.images import Manifest
from storage.root import Root


def handed_over(indexed: Indexed, stored: Extracted, mapped: Mapped) -> dict[str, Any]:
    """Tell what to train and evaluate on, as JSON can hold it."""
    return {
        "images": indexed.data.manifest.id,
        "ood": {name: found.manifest.id for name, found in indexed.listed_ood.items()},
        "support": {name: found.manifest.id for name, found in indexed.listed_support.items()},
        "caches": asdict(stored),
        "mapping": mapped.id,
    }


def taken_over(root: Root, told: dict[str, Any]) -> tuple[Indexed, Extracted, Mapped]:
    """Find it again.

    Raises:
        MissingObjectError: if something is not in the root any more.
    """

    def loaded(sets: dict[str, str]) -> dict[str, Dataset]:
        return {name: Dataset(Manifest.load(root, id), root.reading) for name, id in sets.items()}

    others = tuple(TeacherCaches(**other) for other in told["caches"]["others"])
    record = read_record(root, "mappings", told["mapping"])
    if record is None:
        raise MissingObjectError(f"{root.url} holds no mapping {told['mapping']} any more.")
    return (
        Indexed(
            Dataset(Manifest.load(root, told["images"]), root.reading),
            loaded(told["ood"]),
            loaded(told["support"]),
        ),
        Extracted(
            **{
                **told["caches"],
                "others": others,
                "mapped_tokens": tuple(told["caches"]["mapped_tokens"]),
            }
        ),
        Mapped(id=told["mapping"], record=record, reused=True),
    )
