"""Which views of which images a training sees, and when."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.data.loader import PixelStore, StepDataset, Taught
from flows.data.rendering import ViewSource
from storage.cache import CacheSpec, FeatureCache, KindSpec
from storage.identity import content_key
from storage.root import open_root
from tests.photos import encoded, photo
from tintem_core.errors import InputError
from tintem_core.views import EVAL, ViewRecipe

PHOTOS, VIEWS = 24, 3


class Memory:
    """Reads images from memory, as a source of photos would."""

    def __init__(self, images: list[bytes]) -> None:
        self.images = images

    def read(self, uri: str) -> bytes:
        return self.images[int(uri)]


class Numbered:
    """Latents that say whose they are: (set, view, image)."""

    def __init__(self, name: int, views: int, images: int) -> None:
        self.name, self.views, self.images, self.shape = name, views, images, (3,)

    def __len__(self) -> int:
        return self.images

    def take(self, views_B: Any, rows_B: Any) -> Any:
        return np.stack([np.full_like(rows_B, self.name), views_B, rows_B], axis=1).astype(
            np.float32
        )

    def take_stored(self, views_B: Any, rows_B: Any) -> Any:
        return self.take(views_B, rows_B), None

    def all(self, view: int) -> Any:
        rows = np.arange(self.images)
        return self.take(np.full_like(rows, view), rows)


def taught(name: int, images: int, views: int, recipe: ViewRecipe) -> Taught:
    data = [encoded(photo(100 * name + i)) for i in range(images)]
    source = ViewSource(
        Memory(data), [str(i) for i in range(images)], [content_key(d) for d in data], recipe, 16
    )  # type: ignore[arg-type]
    return Taught(PixelStore(source, 16, views, 10**8), Numbered(name, views, images))


@pytest.fixture(scope="module")
def sets() -> dict[str, Taught]:
    return {
        "views": taught(0, PHOTOS, VIEWS, ViewRecipe()),
        "evaluation": taught(1, PHOTOS, 1, EVAL),
        "few": taught(2, 5, 1, EVAL),
        "more": taught(3, 7, 1, EVAL),
    }


def seen(dataset: StepDataset, epochs: int) -> np.ndarray[Any, Any]:
    """Every (set, view, image) of some epochs, by epoch and place."""
    steps = range(epochs * dataset.steps_per_epoch)
    return np.stack([dataset[step].latents.numpy() for step in steps]).astype(int)


def test_without_evaluation_view_and_support_views_take_turns_as_ever(
    sets: dict[str, Taught],
) -> None:
    dataset = StepDataset(sets["views"], 8, seed=3)
    found = seen(dataset, 4).reshape(4, PHOTOS, 3)
    for epoch in range(4):
        assert set(found[epoch, :, 0]) == {0}
        assert sorted(found[epoch, :, 2]) == list(range(PHOTOS))
        assert np.array_equal(found[epoch, :, 1], (found[epoch, :, 2] + epoch) % VIEWS)


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_a_batch_takes_embeddings_to_the_device_as_they_are_stored(
    sets: dict[str, Taught], tmp_path: Path, dtype: str
) -> None:
    root = open_root(tmp_path)
    keys = [f"{number:032x}" for number in range(PHOTOS)]
    kinds = {
        "global": KindSpec(shape=(6,), dims=("feature",), dtype=dtype),
        "tokens": KindSpec(shape=(2, 6), dims=("token", "feature"), dtype=dtype),
    }

    def stored(name: str, views: int) -> Taught:
        spec = CacheSpec(slug=name, content={}, views=views, kinds=kinds)
        cache = FeatureCache.create_or_open(root, spec)
        rng = np.random.default_rng(views)
        for task in cache.plan(keys):
            size = (views, len(task.keys))
            cache.write_shard(
                task,
                {kind: rng.normal(size=(*size, *kinds[kind].shape)) for kind in kinds},
            )
        latents, tokens = (cache.reader(keys, kind) for kind in kinds)
        return replace(sets[name], latents=latents, tokens=tokens)

    photos = stored("views", VIEWS), stored("evaluation", 1)
    dataset = StepDataset(photos[0], 8, seed=3, evaluation=photos[1], evaluation_share=0.5)
    named = StepDataset(
        sets["views"], 8, seed=3, evaluation=sets["evaluation"], evaluation_share=0.5
    )
    wanted_type = torch.float32 if dtype == "int8" else torch.float16
    for step in range(3):
        batch, names = dataset[step], named[step].latents.numpy().astype(int)
        assert batch.latents.dtype == getattr(torch, dtype)
        there = batch.on_device(torch.device("cpu"))
        assert there.tokens is not None
        assert there.latents.dtype == there.tokens.dtype == wanted_type
        for place, (number, view, row) in enumerate(names):
            where = np.array([view]), np.array([row])
            taken = photos[number].latents.take(*where)[0]
            assert np.array_equal(there.latents[place].numpy(), taken)
            tokens = photos[number].tokens
            assert tokens is not None
            assert np.array_equal(there.tokens[place].numpy(), tokens.take(*where)[0])


@pytest.mark.parametrize("share", [0.2, 0.25, 0.5, 0.9])
def test_every_photo_is_seen_in_its_evaluation_view_in_that_share_of_the_epochs(
    sets: dict[str, Taught], share: float
) -> None:
    dataset = StepDataset(
        sets["views"], 8, seed=3, evaluation=sets["evaluation"], evaluation_share=share
    )
    epochs = 40
    found = seen(dataset, epochs).reshape(epochs, PHOTOS, 3)
    for image in range(PHOTOS):
        views = [tuple(v) for v in found.reshape(-1, 3) if v[2] == image]
        assert len(views) == epochs
        in_evaluation = sum(v[0] == 1 for v in views)
        assert abs(in_evaluation - share * epochs) <= 1
        turns = [sum(v == (0, number, image) for v in views) for number in range(VIEWS)]
        assert max(turns) - min(turns) <= 1
    per_epoch = (found[:, :, 0] == 1).sum(axis=1)
    assert np.ptp(per_epoch) <= 4, "an epoch has about as many as any other"


def test_every_batch_has_its_share_of_support_and_every_support_image_its_turn(
    sets: dict[str, Taught],
) -> None:
    dataset = StepDataset(
        sets["views"], 8, seed=3, support=[sets["few"], sets["more"]], support_share=0.25
    )
    assert dataset.steps_per_epoch == PHOTOS // 6
    found = seen(dataset, 6)
    assert np.all((found[:, :, 0] >= 2).sum(axis=1) == 2)
    photos = found[found[:, :, 0] == 0].reshape(6, PHOTOS, 3)
    assert all(sorted(epoch[:, 2]) == list(range(PHOTOS)) for epoch in photos)
    support = [tuple(v) for v in found[found[:, :, 0] >= 2]]
    assert len(support) == 48
    counts = {v: support.count(v) for v in support}
    assert len(counts) == 12
    assert set(counts.values()) == {4}
    # A batch computed in pieces finds support images in each of them.
    assert all((half >= 2).any() for batch in found[:, :, 0] for half in np.split(batch, 2))


def test_pixels_and_latents_of_a_batch_are_of_the_same_views(sets: dict[str, Taught]) -> None:
    dataset = StepDataset(
        sets["views"],
        8,
        seed=1,
        evaluation=sets["evaluation"],
        evaluation_share=0.5,
        support=[sets["few"], sets["more"]],
        support_share=0.25,
    )
    by_name = dict(enumerate(sets.values()))
    for step in range(8):
        batch = dataset[step]
        for pixels, (name, view, image) in zip(
            batch.pixels.numpy(), batch.latents.numpy().astype(int), strict=True
        ):
            wanted = by_name[name].pixels.take(np.array([view]), np.array([image]))[0]
            assert np.array_equal(pixels, wanted)


def test_processes_share_photos_and_support_images(sets: dict[str, Taught]) -> None:
    def part(rank: int) -> StepDataset:
        return StepDataset(
            sets["views"],
            8,
            seed=3,
            evaluation=sets["evaluation"],
            evaluation_share=0.5,
            support=[sets["more"]],
            support_share=0.25,
            part=(rank, 2),
        )

    found = [seen(part(rank), 1) for rank in range(2)]
    together = np.concatenate(found, axis=1)
    photos = together[together[:, :, 0] < 2]
    assert sorted(photos[:, 2]) == list(range(PHOTOS))
    first_seven = together[together[:, :, 0] == 3].reshape(-1, 3)[:7, 2]
    assert len(set(first_seven)) == 7


def test_labels_stay_with_their_photos(sets: dict[str, Taught]) -> None:
    labels = np.arange(PHOTOS)
    dataset = StepDataset(
        sets["views"],
        8,
        seed=3,
        evaluation=sets["evaluation"],
        evaluation_share=0.5,
        labels=labels,
    )
    batch = dataset[4]
    assert batch.labels is not None
    assert np.array_equal(batch.labels.numpy(), batch.latents.numpy()[:, 2])


def test_processes_that_cannot_share_a_batch_are_refused(sets: dict[str, Taught]) -> None:
    with pytest.raises(InputError, match="3 processes cannot share a batch of 8 images"):
        StepDataset(sets["views"], 8, seed=0, part=(0, 3))
