"""What a student is taught with: views of photos and support images, labels, batches of them."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.data.features import taught_latents, taught_tokens
from flows.data.loader import PixelStore, StepDataset, Taught
from flows.data.rendering import renderer
from flows.stages.cache_requests import taught_views
from flows.stages.results import Indexed
from storage.root import Root
from tintem_core.distributed import rank, world_size
from tintem_core.errors import InputError


def step_dataset(
    config: RunConfig, root: Root, indexed: Indexed, extracted: Extracted
) -> StepDataset:
    """Return the batches of a training, of this process.

    Raises:
        InputError: if they cannot be shared out, or the objective lacks labels or tokens.
    """
    training = config.training
    taught, *further = _taught(config, root, indexed, extracted)
    return StepDataset(
        taught,
        training.batch_size,
        training.seed,
        evaluation=further.pop(0) if config.evaluation_view else None,
        evaluation_share=config.evaluation_view,
        support=further,
        support_share=training.support if further else 0.0,
        labels=class_numbers(indexed)[0] if training.kind.needs_labels else None,
        part=(rank(), world_size()),
    )


def _taught(
    config: RunConfig, root: Root, indexed: Indexed, extracted: Extracted
) -> Iterator[Taught]:
    """Open what students learn from, in the order of :func:`taught_views`."""
    memory = int(config.runtime.memory_gb * 1e9)
    for number, (source, recipe) in enumerate(taught_views(config)):
        dataset = indexed.dataset(source.name)
        split = "train" if dataset is indexed.data else None
        views = 1 if number else config.training.views or config.views.count
        pixels = PixelStore(
            renderer(config, dataset, split, recipe),
            config.student.image_size,
            views,
            memory,
            config.runtime.decode_threads,
        )
        memory -= pixels.bytes_kept
        latents = taught_latents(root, extracted, dataset, split, number)
        tokens = None
        if config.training.needs_tokens:
            tokens = taught_tokens(root, extracted, dataset, split, number)
        yield Taught(pixels, latents, tokens)


def class_numbers(indexed: Indexed) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the training photos' class numbers and the classes' names.

    Raises:
        InputError: if a training photo has no label.
    """
    labels = indexed.data.labels("train")
    refuse_unlabelled(indexed.data.name, labels)
    named = [label for label in labels if label is not None]
    classes = tuple(sorted(set(named)))
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers[label] for label in named], np.int64), classes


def refuse_unlabelled(name: str, labels: Sequence[str | None]) -> None:
    """Raises InputError if a training photo has no label."""
    without = sum(label is None for label in labels)
    if without:
        raise InputError(
            f"training.objective 'supervised' needs a label for every training photo, but "
            f"{without} of {len(labels)} photos of {name} have none: "
            "give data.label_column or class folders."
        )
