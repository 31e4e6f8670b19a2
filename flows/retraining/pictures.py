"""Pictures of a night: how the scores lie, and the strangest photos on one sheet."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from storage.errors import MissingObjectError
from storage.images import ImageReader, is_image
from tintem_core.errors import InputError
from tintem_core.views import decode_image

matplotlib.use("Agg")


_KNOWN, _NEW = "#7b8794", "#c2410c"
_ON_A_SHEET = 8


@dataclass(frozen=True)
class Example:
    """A new photo beside the known one that is nearest to it."""

    uri: str
    split: str
    score: float
    is_strange: bool
    picture: bytes | None
    """JPEG; None where the photo is not there any more."""
    nearest_uri: str
    nearest_picture: bytes | None


@dataclass(frozen=True)
class DriftView:
    """The new photos, seen from what some students learned from."""

    students: tuple[str, ...]
    drift: Mapping[str, Any]
    """As the record says it; only ``unknown`` where there is no verdict."""
    usual: NDArray[np.float32]
    new: NDArray[np.float32]
    shown: Sequence[Example]


def histogram(found: DriftView) -> str:
    """Return the scores of known and new photos as PNG, base64."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    both = np.concatenate([found.usual, found.new])
    low, high = float(both.min()), float(both.max())
    bins = np.linspace(low, max(high, low + 1e-6), 41).tolist()
    for values, label, colour in ((found.usual, "known", _KNOWN), (found.new, "new", _NEW)):
        if len(values):
            share = np.full(len(values), 1 / len(values))
            axes.hist(values, bins=bins, weights=share, alpha=0.6, label=label, color=colour)
    if "threshold" in found.drift:
        axes.axvline(found.drift["threshold"], color="black", lw=1, ls="--", label="strange below")
    axes.set(xlabel="cosine to the nearest photo learned from", ylabel="share of photos")
    axes.legend(frameon=False, fontsize=8)
    return base64.b64encode(_packed(figure, "png")).decode()


def contact_sheet(shown: Sequence[Example]) -> bytes | None:
    """Return the strangest photos, each above its nearest known one, as JPEG; None without any."""
    pairs = sorted((one for one in shown if one.picture), key=lambda one: one.score)[:_ON_A_SHEET]
    if not pairs:
        return None
    figure = Figure(figsize=(1.5 * len(pairs), 3.5), layout="constrained")
    grid = figure.subplots(2, len(pairs), squeeze=False)
    for column, one in zip(grid.T, pairs, strict=True):
        for axes, picture in zip(column, (one.picture, one.nearest_picture), strict=True):
            axes.set(xticks=[], yticks=[])
            if picture is not None:
                axes.imshow(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")))
        column[0].set_title(f"cosine {one.score:.3f}", fontsize=8)
    for axes, label in zip(grid[:, 0], ("new", "nearest known"), strict=True):
        axes.set_ylabel(label, fontsize=8)
    return _packed(figure, "jpeg")


def _packed(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, dpi=150)
    return buffer.getvalue()


_SIDE = 160


def thumbnail(images: ImageReader, uri: str, key: str) -> bytes | None:
    """Return a JPEG of at most 160 pixels a side; None where the photo is not there any more."""
    try:
        data = images.read(uri)
        if not is_image(data, key, images.source.bits):
            return None
        picture = decode_image(data, images.source.bits)
    except (MissingObjectError, InputError):
        return None
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=80)
    return packed.getvalue()
