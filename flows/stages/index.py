"""Stage 1: which images there are."""

from flows.config import RunConfig
from flows.reporting import reporter
from flows.stages.datasets import Dataset
from flows.stages.results import Indexed
from storage.manifest import Manifest, SourceConfig, build_manifest
from storage.root import Root
from tintem_core.errors import InputError


def index(config: RunConfig, root: Root) -> Indexed:
    """List the images of every dataset of the run, quarantining those that cannot be read.

    Raises:
        storage.SourceError: if a source is missing, empty, or mostly unreadable.
        InputError: if there are too few images to train and test on, or to be strange.
    """
    data = _dataset(config.data, root)
    for split, fewest, cure in (("train", 16, "more images"), ("test", 4, "a larger test_share")):
        found = len(data.keys(split))
        if found < fewest:
            raise InputError(
                f"{config.data.uri} has {found} {split} photos, at least {fewest} are needed: "
                f"give {cure}."
            )
    if config.evaluation.ood_neighbour > len(data.keys("train")):
        raise InputError(
            f"evaluation.ood_neighbour is {config.evaluation.ood_neighbour}, but there are only "
            f"{len(data.keys('train'))} train photos to be near to: set it to 1."
        )
    return Indexed(data, {s.name: _strange(s, data, root) for s in config.evaluation.ood})


def _strange(source: SourceConfig, data: Dataset, root: Root) -> Dataset:
    """Index an OOD set; what is also in the data is not out of its distribution."""
    dataset = _dataset(source, root)
    strange = dataset.without(data.keys())
    shared = len(dataset.keys()) - len(strange.keys())
    if shared:
        reporter().note(
            f"{shared} photos of {source.name} are also in {data.name} and are left out there"
        )
    if len(strange.keys()) < 4:
        raise InputError(
            f"the OOD set {source.name} at {source.uri} has {len(strange.keys())} photos that are "
            f"not in {data.name}, at least 4 are needed: give more, or leave the set out."
        )
    return strange


def _dataset(source: SourceConfig, root: Root) -> Dataset:
    previous = Manifest.latest(root, source.name)
    with reporter().track(f"Index {source.name}", 0, "photos") as advance:
        done = 0

        def progress(now: int, _total: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        manifest = build_manifest(source, previous=previous, progress=progress)
    manifest.save(root)
    unreadable = len(manifest.quarantine)
    if unreadable:
        first = manifest.quarantine.row(0, named=True)
        reporter().note(
            f"{unreadable} of {unreadable + len(manifest.table)} photos of {source.name} cannot be "
            f"read and are left out; the first is {first['uri']} ({first['reason']})"
        )
    return Dataset(manifest)
