"""What the teachers know of a list of images: one cache, or several joined.

Legend: ``B`` batch, ``D`` teacher width, ``N`` images, ``V`` views.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.filesize import decimal

from flows.data.caches import Extracted
from flows.data.dataset import Dataset
from flows.reporting.base import reporter
from storage.cache import FeatureCache, FeatureReader
from storage.root import Root
from tintem_core.errors import InputError
from tintem_core.models.joint import joint_latents

Array = np.ndarray[Any, Any]


class Latents(Protocol):
    """Random access to the latents of N images in V views."""

    @property
    def views(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Per view and image."""

    def __len__(self) -> int: ...

    def take(self, views_B: Array, rows_B: Array) -> Array:
        """Return (B, *shape)."""

    def take_stored(self, views_B: Array, rows_B: Array) -> tuple[Array, Array | None]:
        """Return (B, *shape) as stored and, for int8, the scales (B,) that it is multiplied by."""

    def all(self, view: int) -> Array:
        """Return (N, *shape)."""


class JointLatents:
    """The caches of several teachers read as one; rows are unit vectors."""

    def __init__(self, readers: Sequence[FeatureReader], weights: Sequence[float]) -> None:
        self._readers, self._weights = readers, weights
        self.views = readers[0].views
        self.shape = (*readers[0].shape[:-1], sum(reader.shape[-1] for reader in readers))

    def __len__(self) -> int:
        return len(self._readers[0])

    def take(self, views_B: Array, rows_B: Array) -> Array:
        return joint_latents([r.take(views_B, rows_B) for r in self._readers], self._weights)

    def take_stored(self, views_B: Array, rows_B: Array) -> tuple[Array, None]:
        return self.take(views_B, rows_B), None

    def all(self, view: int) -> Array:
        return joint_latents([r.all(view) for r in self._readers], self._weights)


def taught_latents(
    root: Root, extracted: Extracted, dataset: Dataset, split: str | None, number: int = 0
) -> Latents:
    """Open the embeddings of the views that students learn from.

    Args:
        root: holds the caches.
        extracted: the caches.
        dataset: whose images.
        split: which of them.
        number: which views, as :func:`taught_views` counts; the training views are the first.
    """
    readers = _readers(root, extracted, dataset, split, number, "global")
    note_what_does_not_fit(readers)
    return _joined(readers, extracted)


def taught_tokens(
    root: Root, extracted: Extracted, dataset: Dataset, split: str | None, number: int = 0
) -> Latents:
    """Open the patch tokens of the same views, mapped where the run keeps them so.

    Raises:
        InputError: if tokens and embedding differ in width, so that one mapping cannot serve both.
    """
    latents = _readers(root, extracted, dataset, split, number, "global")
    if extracted.mapped_tokens:
        cache = FeatureCache.open(root, extracted.mapped_tokens[number])
        tokens = [cache.reader(dataset.keys(split), "tokens")]
    else:
        tokens = _readers(root, extracted, dataset, split, number, "tokens")
        widths = (sum(reader.shape[-1] for reader in readers) for readers in (tokens, latents))
        require_one_width(*widths)
    note_what_does_not_fit([*latents, *tokens])
    return _joined(tokens, extracted)


def require_one_width(tokens: int, embedding: int) -> None:
    """Raises InputError where one mapping cannot serve both."""
    if tokens != embedding:
        raise InputError(
            f"the teacher's tokens are {tokens} wide, its embedding {embedding}: one mapping "
            "cannot serve both. Set cache.tokens to false, or choose another teacher."
        )


def evaluation_latents(
    root: Root, extracted: Extracted, dataset: Dataset, split: str | None
) -> NDArray[np.float32]:
    """Return the latents of the evaluation view: (N, D), in the order of the dataset's keys."""
    rows = evaluation_rows(root, extracted, dataset.name, dataset.keys(split))
    return rows.all(view=0).astype(np.float32)


def evaluation_rows(root: Root, extracted: Extracted, name: str, keys: Sequence[str]) -> Latents:
    """Open the embeddings of the evaluation view of some images of a dataset."""
    caches = evaluation_caches(extracted, name)
    return _joined([FeatureCache.open(root, cache).reader(keys) for cache in caches], extracted)


def evaluation_caches(extracted: Extracted, name: str) -> list[str]:
    """Return the cache of each teacher that holds the evaluation view of a dataset."""
    return [
        extracted.evaluation_caches[name],
        *(other.evaluation_caches[name] for other in extracted.others),
    ]


def latents_by_teacher(
    root: Root, extracted: Extracted, dataset: Dataset, split: str | None, first: str
) -> dict[str, NDArray[np.float32]]:
    """Return each teacher's own latents of the evaluation view, as it gave them: name to (N, D).

    Args:
        first: the name of the first teacher; two of the same name are numbered.
    """
    names = [first, *(other.model for other in extracted.others)]
    caches = [extracted.evaluation_caches, *(other.evaluation_caches for other in extracted.others)]
    found = {}
    for number, evaluation in enumerate(caches):
        name = names[number] + (f" ({number + 1})" if names.count(names[number]) > 1 else "")
        reader = FeatureCache.open(root, evaluation[dataset.name]).reader(dataset.keys(split))
        found[name] = reader.all(view=0).astype(np.float32)
    return found


def _readers(
    root: Root, extracted: Extracted, dataset: Dataset, split: str | None, number: int, kind: str
) -> list[FeatureReader]:
    caches = [extracted.training_cache, *(other.training_cache for other in extracted.others)]
    if number:
        caches = evaluation_caches(extracted, dataset.name)
    keys = dataset.keys(split)
    return [FeatureCache.open(root, cache).reader(keys, kind) for cache in caches]


def _joined(readers: list[FeatureReader], extracted: Extracted) -> Latents:
    if len(readers) == 1:
        return readers[0]
    return JointLatents(readers, [1.0, *(other.weight for other in extracted.others)])


def note_what_does_not_fit(readers: Sequence[FeatureReader]) -> None:
    """Say so when shards would be fetched again and again, because not all copies fit at once."""
    copied = [(reader.copies, reader.bytes) for reader in readers if reader.copies is not None]
    if not copied:
        return
    folder, needed = copied[0][0], sum(size for _, size in copied)
    if needed > folder.limit_bytes:
        reporter().note(
            f"the training reads {decimal(needed)} of embeddings in random order, but only "
            f"{decimal(folder.limit_bytes)} of copies may lie in {folder.folder}: nearly every "
            "step fetches shards again, and waits for them. Set runtime.copies_gb to "
            f"{1.05 * needed / 1e9:.2g} or more, or choose cache.dtype int8 or fewer views"
        )
