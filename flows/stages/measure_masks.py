"""What the patch tokens of teacher and student tell of masks: linear segmentation.

Legend: ``N`` photos, ``T`` tokens of a photo, ``C`` classes, ``S`` side in pixels.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from flows.config.run import RunConfig
from flows.data.dataset import Dataset
from flows.data.rendering import eval_source, render
from flows.reporting.base import reporter
from flows.stages.spaces import Found
from storage.root import Root, open_root
from tintem_core.errors import InputError, NotApplicableError
from tintem_core.evaluation.bootstrap import Draws, MetricRow, bootstrap_interval
from tintem_core.evaluation.probes import fit_logistic
from tintem_core.evaluation.segmentation import (
    UNTOLD,
    confusion,
    grid_side,
    mean_iou,
    pixel_classes,
    token_classes,
)
from tintem_core.models.embedder import Embedder

_MOST_PHOTOS = {"train": 500, "test": 1000}
_MOST_TOKENS = 20_000
_BATCH = 32
# Masks are compared at about this size, a multiple of each grid.
_SIDE = 128
_NOBODYS = 255


@dataclass(frozen=True)
class _Split:
    """The photos of a split that have a mask, by their row."""

    rows: list[int]
    masks: list[Image.Image]
    """The central square; a pixel is a class, 255 is none."""


def mask_name(uri: str) -> str:
    """Return where the mask of a photo lies below the folder of masks."""
    return str(PurePosixPath(uri).with_suffix(".png"))


def refuse_no_masks(folder: str, data: str, uris: list[str]) -> None:
    """Raises InputError unless some photo has a mask."""
    there = open_root(folder).sizes()
    if not any(mask_name(uri) in there for uri in uris):
        raise InputError(
            f"evaluation.masks: {folder} has a mask of no photo of {data}; that of {uris[0]} "
            f"would be {mask_name(uris[0])}."
        )


def mask_rows(
    config: RunConfig,
    data: Dataset,
    models: Mapping[str, Callable[[], Embedder]],
    drawn: Draws,
) -> Found:
    """Fit a linear layer on frozen patch tokens, and compare what it tells with the masks.

    Of at most 500 training photos, 20,000 tokens drawn from all; measured on at most 1,000 test
    photos, in the central square that the models see.

    Args:
        config: the run.
        data: the photos.
        models: by subject, what loads the model whose tokens are looked at.
        drawn: of the intervals over photos.

    Yields:
        ``miou`` of each model that has patch tokens; its chance is that of one class everywhere.
    """
    train, test = (_split(config, data, split) for split in ("train", "test"))
    if not (train.rows and test.rows):
        reporter().note(f"masks are not measured: only one part of {data.name} has some")
        return
    values = sorted({v for mask in (*train.masks, *test.masks) for v in _values(mask)})
    if len(values) < 2:
        reporter().note("masks are not measured: they have fewer than two classes")
        return
    for who, load in models.items():
        try:
            confusions, chance = _confusions(config, data, load(), train, test, values, drawn)
        except NotApplicableError as error:
            reporter().note(f"masks are not measured of the {who}: {error}")
            continue
        interval = bootstrap_interval(mean_iou, confusions, **drawn)
        value = mean_iou(confusions)
        yield who, "test", MetricRow("miou", value, *interval, len(confusions), chance)


def _confusions(
    config: RunConfig,
    data: Dataset,
    model: Embedder,
    train: _Split,
    test: _Split,
    values: list[int],
    drawn: Draws,
) -> tuple[NDArray[np.int64], float]:
    """Return the confusions of the test photos (N, C, C), and the mIoU of the usual class."""
    tokens, wanted = [], []
    for embedded, mask in _tokens(config, data, "train", model, train):
        side = grid_side(len(embedded))
        tokens.append(embedded)
        wanted.append(token_classes(_classes(mask, side, values), side, len(values)))
    rows, labels = np.concatenate(tokens), np.concatenate(wanted)
    told = np.flatnonzero(labels != UNTOLD)
    if len(told) > _MOST_TOKENS:
        told = np.random.default_rng(drawn["seed"]).choice(told, _MOST_TOKENS, replace=False)
    known, numbers = np.unique(labels[told], return_inverse=True)
    if len(known) < 2:
        raise NotApplicableError("below its patch tokens there are fewer than two classes")
    probe = fit_logistic(rows[told], numbers)
    usual = known[np.bincount(numbers).argmax()]
    found, constant = [], []
    for embedded, mask in _tokens(config, data, "test", model, test):
        classes = _classes(mask, grid_side(len(embedded)), values)
        told_classes = known[pixel_classes(probe.logits(embedded), len(classes))]
        found.append(confusion(classes, told_classes, len(values)))
        constant.append(confusion(classes, np.full_like(classes, usual), len(values)))
    return np.stack(found), mean_iou(np.stack(constant))


def _tokens(
    config: RunConfig, data: Dataset, split: str, model: Embedder, chosen: _Split
) -> Iterator[tuple[NDArray[np.float32], Image.Image]]:
    """Yield the patch tokens (T, D) of each photo, with its mask."""
    source = eval_source(config, data, split)
    with reporter().track(f"Segment {data.name} ({split})", len(chosen.rows), "photos") as advance:
        for first in range(0, len(chosen.rows), _BATCH):
            part = slice(first, first + _BATCH)
            threads = config.runtime.decode_threads
            pixels = render(source, chosen.rows[part], model.image_size, threads)
            try:
                found = model.embed(pixels, tokens=True).tokens
            except InputError as error:
                raise NotApplicableError(str(error)) from error
            assert found is not None
            yield from zip(found, chosen.masks[part], strict=True)
            advance(len(pixels))


def _split(config: RunConfig, data: Dataset, split: str) -> _Split:
    assert config.evaluation.masks is not None
    root = open_root(config.evaluation.masks)
    there = root.sizes()
    names = [mask_name(uri) for uri in data.uris(split)]
    # Keys are digests, so that the first photos are drawn at random.
    rows = [row for row, name in enumerate(names) if name in there][: _MOST_PHOTOS[split]]
    return _Split(rows, [_mask(root, names[row]) for row in rows])


def _mask(root: Root, name: str) -> Image.Image:
    """Return the central square of a mask.

    Raises:
        InputError: if it is no image of single values.
    """
    try:
        with Image.open(io.BytesIO(root.read(name)), formats=["PNG"]) as opened:
            mask = opened.copy()
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise InputError(f"evaluation.masks: {root.url}/{name} is no complete PNG.") from error
    if mask.mode not in ("L", "P", "1"):
        raise InputError(
            f"evaluation.masks: {root.url}/{name} has colours ({mask.mode}): the value of a pixel "
            "must be its class, 0 to 254, or 255 for none."
        )
    side = min(mask.size)
    left, top = (mask.width - side) // 2, (mask.height - side) // 2
    square = mask.crop((left, top, left + side, top + side))
    return Image.fromarray(np.asarray(square).astype(np.uint8))


def _values(mask: Image.Image) -> set[int]:
    return set(np.unique(np.asarray(mask)).tolist()) - {_NOBODYS}


def _classes(mask: Image.Image, side: int, values: list[int]) -> NDArray[np.int64]:
    """Return the classes of a mask at a multiple of a grid's side, (S, S)."""
    size = side * max(1, round(_SIDE / side))
    pixels = np.asarray(mask.resize((size, size), Image.Resampling.NEAREST))
    place = np.full(256, UNTOLD, np.int64)
    place[values] = np.arange(len(values))
    return np.asarray(place[pixels])
