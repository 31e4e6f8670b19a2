"""Stage 1: which images there are."""

from flows.config.run import RunConfig
from flows.data.dataset import Dataset
from flows.data.latents import StoredLatents, open_latents, unused_latents, with_latents
from flows.reporting.base import reporter
from flows.stages.measure_classes import MOST_GROUPS
from flows.stages.results import Indexed
from flows.stages.selection import held_out
from flows.stages.training_data import refuse_unlabelled
from storage.images import (
    Manifest,
    SourceConfig,
    build_manifest,
    forget_changed,
    without_changed,
)
from storage.root import Root
from tintem_core.errors import InputError


def index(config: RunConfig, root: Root) -> Indexed:
    """List the images of every dataset of the run, quarantining those that cannot be read.

    Raises:
        storage.SourceError: if a source is missing, empty, or mostly unreadable.
        InputError: if there are too few images to train, validate and test on, or to be strange.
    """
    data = _dataset(config, config.data, root)
    for split, fewest, cure in (("train", 16, "more images"), ("test", 4, "a larger test_share")):
        found = len(data.keys(split))
        if found < fewest:
            raise InputError(
                f"{config.data.uri} has {found} {split} photos, at least {fewest} are needed: "
                f"give {cure}."
            )
    if config.training.kind.needs_labels:
        refuse_unlabelled(data.name, data.labels("train"))
    if config.training.select == "best":
        held_out(config, data)
    if config.evaluation.ood_neighbour > len(data.keys("train")):
        raise InputError(
            f"evaluation.ood_neighbour is {config.evaluation.ood_neighbour}, but there are only "
            f"{len(data.keys('train'))} train photos to be near to: set it to 1."
        )
    indexed = Indexed(
        data,
        {s.name: _dataset(config, s, root) for s in config.evaluation.ood},
        {s.name: _dataset(config, s, root) for s in config.support_sources},
        config.evaluation.groups,
    )
    _check_groups(indexed)
    for teacher in config.teachers:
        if teacher.latents is not None:
            _tell_unused(open_latents(teacher), indexed)
    for source in config.evaluation.ood:
        _check_strange(source, indexed)
    for source in config.support_sources:
        _check_support(source, indexed)
    return indexed


def _check_groups(indexed: Indexed) -> None:
    for column in indexed.groups:
        photos, without = len(column), column.null_count()
        if without == photos:
            raise InputError(
                f"evaluation.groups: the column '{column.name}' says nothing of the {photos:,} "
                f"test photos of {indexed.data.name}: fill it, or leave it out."
            )
        values = column.drop_nulls().n_unique()
        told = f"{column.name}: {values:,} values over {photos - without:,} test photos"
        if values > MOST_GROUPS:
            told += f", the {MOST_GROUPS} with the most photos are told apart"
        reporter().note(f"{told}; {without:,} without a value" if without else told)


def _check_strange(source: SourceConfig, indexed: Indexed) -> None:
    name, data = source.name, indexed.data.name
    strange = len(indexed.ood[name].keys())
    shared = len(indexed.listed_ood[name].keys()) - strange
    if shared:
        reporter().note(f"{shared} photos of {name} are also in {data} and are left out there")
    if strange < 4:
        raise InputError(
            f"the OOD set {name} at {source.uri} has {strange} photos that are not in {data}, at "
            "least 4 are needed: give more, or leave the set out."
        )


def _check_support(source: SourceConfig, indexed: Indexed) -> None:
    left = len(indexed.support[source.name].keys())
    shared = len(indexed.listed_support[source.name].keys()) - left
    if shared:
        reporter().note(
            f"{shared} support images of {source.name} are also photos of the run, learned from or "
            "measured on, and are left out"
        )
    if not left:
        raise InputError(
            f"every support image of {source.name} at {source.uri} is also a photo of the run: "
            "give other photos, or leave the set out."
        )


def _tell_unused(latents: StoredLatents, indexed: Indexed) -> None:
    listed = (indexed.data, *indexed.listed_ood.values())
    unused = unused_latents(latents, [dataset.manifest for dataset in listed])
    if unused:
        reporter().note(
            f"{unused:,} of {len(latents.names):,} latents in {latents.config.latents} are of no "
            "photo of the run, and are not used"
        )


def _dataset(config: RunConfig, source: SourceConfig, root: Root) -> Dataset:
    previous = Manifest.latest(root, source.name)
    if previous is not None:
        previous = without_changed(root, previous)
    with reporter().track(f"Index {source.name}", 0, "photos") as advance:
        done = 0

        def progress(now: int, _total: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        manifest = build_manifest(
            source, previous=previous, progress=progress, reading=root.reading
        )
        # Those that were known are listed, and not opened again.
        advance(max(0, manifest.table.height - done))
    for teacher in config.teachers:
        if teacher.latents is not None:
            manifest = with_latents(manifest, open_latents(teacher))
    manifest.save(root)
    forget_changed(root, source.name)
    reporter().note(manifest.summary)
    unreadable = len(manifest.quarantine)
    if unreadable:
        first = manifest.quarantine.row(0, named=True)
        reporter().note(
            f"{unreadable} of {unreadable + len(manifest.table)} photos of {source.name} cannot be "
            f"read and are left out; the first is {first['uri']} ({first['reason']})"
        )
    return Dataset(manifest, root.reading)
