"""Deterministic views: a view is a pure function of (content key, view index, recipe).

Teacher and student must see the same pixels, maybe weeks and machines apart, so nothing here
depends on a global random state, on order or on worker count. Every random choice comes from a
counter-based generator (Philox) keyed on the three inputs.

Legend: ``S`` side of a square view in pixels.
"""

import hashlib
import math
import random
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from tintem_core import _torchvision_guard as _torchvision_guard
from tintem_core.errors import InputError
from tintem_pixels import PixelError, centre_crop, decode

Pixels = NDArray[np.uint8]

# Part of every view's seed and of every recipe's identity: raise it when views are cut otherwise.
_RECIPE_VERSION = 1
# Parts of the identity only: raise the first when the pixels of an image change, the second (absent
# where it is 1) when training views are resampled otherwise, but cut from the same places.
_DECODING_VERSION = 2
_RESAMPLING_VERSION = 2
# A photo is decoded smaller where its smallest crop still has this many pixels for one of a view.
_DECODED_PIXELS = 2


class ViewRecipe(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """How views are cut from an image."""

    name: Literal["eval", "light", "timm", "corrupted"] = Field(
        "light",
        description="eval: centre crop; light: random crop + flip; "
        "timm: random crop, flip, RandAugment and erasing (the paper's); corrupted: the centre "
        "crop under one of 75 common corruptions, to measure robustness by",
    )
    min_scale: float = Field(0.35, gt=0, le=1, description="smallest crop, share of image area")
    max_ratio: float = Field(4 / 3, ge=1, le=100, description="largest aspect ratio of a crop")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    augment: str = Field("rand-m9-mstd0.5-inc1", description="RandAugment policy, recipe timm only")
    erase: float = Field(0.25, ge=0, le=1, description="probability of erasing, recipe timm only")

    def identity(self) -> dict[str, object]:
        """Return everything that determines the pixels, and nothing else."""
        found = {**self.cutting(), "decoding": _DECODING_VERSION}
        is_first = _RESAMPLING_VERSION == 1 or not self.is_random
        return found if is_first else {**found, "resampling": _RESAMPLING_VERSION}

    @property
    def is_random(self) -> bool:
        """Whether crops are drawn, as for training: neither the centre nor a corruption of it."""
        return self.name in ("light", "timm")

    def decoded_side(self, size: int) -> int | None:
        """Return how long the shorter side of a photo must be for its smallest crop; None: whole.

        Args:
            size: S, side of the largest view in pixels.
        """
        if not self.is_random:
            return None
        return math.ceil(_DECODED_PIXELS * size * math.sqrt(self.max_ratio / self.min_scale))

    def cutting(self) -> dict[str, object]:
        """Return everything that determines where and how views are cut."""
        used = {
            "eval": {"name"},
            "light": {"name", "min_scale", "max_ratio", "flip"},
            "timm": {"name", "min_scale", "max_ratio", "flip", "augment", "erase"},
            "corrupted": {"name"},
        }[self.name]
        return {"version": _RECIPE_VERSION, **self.model_dump(include=used)}


EVAL = ViewRecipe(name="eval")
CORRUPTED = ViewRecipe(name="corrupted")
"""View i shows corruption and severity `corruptions.corruption_of(i)`; there are 75."""


def decode_image(data: bytes, bits: int | None = None) -> Image.Image:
    """Decode an encoded image to upright RGB, as :mod:`tintem_pixels.decode` says.

    Args:
        data: the bytes of a file.
        bits: how many bits are in use in grey values that are stored in more than 8.

    Raises:
        InputError: if the bytes are not a complete image that Pillow can read.
    """
    try:
        return decode(data, bits).image
    except PixelError as error:
        raise InputError(f"not a readable image: {error}") from error


def generator(key: str, view: int, recipe: ViewRecipe) -> np.random.Generator:
    """Return the random generator that belongs to one view of one image."""
    text = f"{key}/{view}/{_cutting_text(recipe)}"
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))


@lru_cache(maxsize=8)
def _cutting_text(recipe: ViewRecipe) -> str:
    return str(sorted(recipe.cutting().items()))


def render_view(
    image: Image.Image | Pixels, key: str, view: int, recipe: ViewRecipe, size: int, base_size: int
) -> Pixels:
    """Render one view at one resolution: (S, S, 3); see :func:`render_views`."""
    return render_views(image, key, [view], recipe, size, base_size)[0]


def render_views(
    image: Image.Image | Pixels,
    key: str,
    views: Sequence[int],
    recipe: ViewRecipe,
    size: int,
    base_size: int,
) -> Pixels:
    """Render some views of one image at one resolution.

    Args:
        image: upright, RGB; as an array (H, W, 3).
        key: content key of the encoded image.
        views: V indices of views, from 0.
        recipe: how views are cut.
        size: S, side of the result in pixels.
        base_size: side at which augmentations act, so that they are the same for every ``size``
            (the teacher's input size).

    Returns:
        RGB pixels, uint8, shape (V, S, S, 3). A view's crop box is the same for every ``size``,
        and its pixels whatever other views are asked for.
    """
    if recipe.is_random:
        # Out of Pillow once for all views.
        whole = np.array(image) if isinstance(image, Image.Image) else image
        return np.stack([_random_view(whole, key, view, recipe, size, base_size) for view in views])
    upright = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if recipe.name == "eval":
        return np.stack([centre_crop(upright, size)] * len(views))
    centre = centre_crop(upright, base_size)
    return np.stack([_corrupted(centre, key, view, recipe, size) for view in views])


def _corrupted(centre: Pixels, key: str, view: int, recipe: ViewRecipe, size: int) -> Pixels:
    # Only here: SciPy is not imported by those who cut other views.
    from tintem_core.corruptions import corrupt, corruption_of

    name, severity = corruption_of(view)
    return _resized(corrupt(centre, name, severity, generator(key, view, recipe)), size)


def _random_view(
    image: Pixels, key: str, view: int, recipe: ViewRecipe, size: int, base_size: int
) -> Pixels:
    rng = generator(key, view, recipe)
    height, width, _ = image.shape
    box = crop_box(rng, width, height, recipe)
    mirrored = rng.random() < recipe.flip
    if recipe.name == "light":
        return _cut(image, size, box, mirrored=mirrored)
    base = _cut(image, base_size, box, mirrored=mirrored)
    return _resized(_augment(base, rng, recipe), size)


def is_mirrored(key: str, view: int, recipe: ViewRecipe) -> bool:
    """Whether :func:`render_view` flips this view of this image."""
    if recipe.name in ("eval", "corrupted"):
        return False
    rng = generator(key, view, recipe)
    # The flip is drawn after the box, whose draws are the same for an image of any size.
    crop_box(rng, 1, 1, recipe)
    return bool(rng.random() < recipe.flip)


def _resized(pixels: Pixels, size: int) -> Pixels:
    side = len(pixels)
    return pixels if side == size else _resize(Image.fromarray(pixels), size, (0, 0, side, side))


def _cut(image: Pixels, size: int, box: tuple[int, int, int, int], *, mirrored: bool) -> Pixels:
    """Resample a crop, bicubic and antialiased: as Pillow does within 8 levels of 255, faster."""
    # Only here: torch takes seconds to import.
    import torch
    from torch.nn.functional import interpolate

    left, top, right, bottom = box
    # Strides of channels_last: neither the way in nor the way out copies anything.
    pixels = torch.from_numpy(image[top:bottom, left:right])[None].permute(0, 3, 1, 2)
    found = interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    upright = found[0].permute(1, 2, 0)
    # NumPy mirrors pixel by pixel, which takes as long as the resampling.
    return np.ascontiguousarray((upright.flip(1) if mirrored else upright).numpy())


def _resize(image: Image.Image, size: int, box: tuple[float, float, float, float]) -> Pixels:
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def crop_box(
    rng: np.random.Generator, width: int, height: int, recipe: ViewRecipe
) -> tuple[int, int, int, int]:
    """Draw a random-resized-crop box (Szegedy et al. 2015), clipped to the image.

    Returns:
        Left, top, right and bottom in whole pixels, at least one apart.
    """
    area = width * height * rng.uniform(recipe.min_scale, 1.0)
    bound = np.log(recipe.max_ratio)
    ratio = np.exp(rng.uniform(-bound, bound))
    crop_width = min(float(np.sqrt(area * ratio)), float(width))
    crop_height = min(float(np.sqrt(area / ratio)), float(height))
    left = rng.uniform(0, 1) * (width - crop_width)
    top = rng.uniform(0, 1) * (height - crop_height)
    first_column, first_row = min(round(left), width - 1), min(round(top), height - 1)
    return (
        first_column,
        first_row,
        max(round(left + crop_width), first_column + 1),
        max(round(top + crop_height), first_row + 1),
    )


# timm's RandAugment draws from the process-wide generators of `random` and NumPy.
_GLOBAL_RANDOM = threading.Lock()


def _augment(pixels: Pixels, rng: np.random.Generator, recipe: ViewRecipe) -> Pixels:
    seed = int(rng.integers(2**32))
    with _GLOBAL_RANDOM, warnings.catch_warnings():
        python_state, numpy_state = random.getstate(), np.random.get_state()
        try:
            random.seed(seed)
            np.random.seed(seed)
            mean = tuple(int(c) for c in pixels.mean(axis=(0, 1)))
            policy = rand_augment(recipe.augment, mean)
            augmented = np.array(policy(Image.fromarray(pixels)))
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
    if rng.random() < recipe.erase:
        _erase(augmented, rng)
    return augmented


def rand_augment(policy: str, mean: tuple[int, ...]) -> Callable[[Image.Image], Image.Image]:
    """Return timm's RandAugment, which posterises to one bit where it draws fewer.

    Args:
        policy: as timm spells it, such as ``rand-m9-mstd0.5-inc1``.
        mean: what is shown beyond the image's edges, RGB.
    """
    from timm.data.auto_augment import posterize, rand_augment_transform

    transform = rand_augment_transform(policy, {"img_mean": mean})
    for op in transform.ops:
        if op.aug_fn is posterize:
            # The ends of the range draw 0 bits, a larger `mmax` fewer still. Pillow 13 refuses
            # that; before, every image came out black and said nothing. One bit is the strongest
            # that says something. No other view changes, so the recipe's version stays.
            op.level_fn = partial(_at_least_one_bit, op.level_fn)
    augment: Callable[[Image.Image], Image.Image] = transform
    return augment


def _at_least_one_bit(
    level_fn: Callable[[float, Any], tuple[int]], magnitude: float, settings: Any
) -> tuple[int]:
    (bits,) = level_fn(magnitude, settings)
    return (max(1, bits),)


def _erase(pixels: Pixels, rng: np.random.Generator) -> None:
    """Fill a random box with noise, in place (Zhong et al. 2017, arXiv 1708.04896)."""
    side = pixels.shape[0]
    area = side * side * rng.uniform(0.02, 1 / 3)
    ratio = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
    height = max(1, min(side, round(float(np.sqrt(area * ratio)))))
    width = max(1, min(side, round(float(np.sqrt(area / ratio)))))
    top = int(rng.integers(side - height + 1))
    left = int(rng.integers(side - width + 1))
    pixels[top : top + height, left : left + width] = rng.integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
