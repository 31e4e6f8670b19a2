"""From images to the pixels of their views: the one place that decodes.

Legend: ``S`` side in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flows.config.run import RunConfig
from flows.data.dataset import Dataset
from storage.identity import content_key
from storage.images import ImageReader
from tintem_core.errors import InputError
from tintem_core.views import EVAL, Pixels, ViewRecipe, decode_image, render_view


@dataclass(frozen=True)
class ViewSource:
    """Renders the views of a list of images at one size."""

    images: ImageReader
    uris: Sequence[str]
    keys: Sequence[str]
    recipe: ViewRecipe
    base_size: int

    def views(self, row: int, views: range, size: int) -> Pixels:
        """Decode image ``row`` once and render some of its views: (len(views), S, S, 3).

        Raises:
            InputError: if the photo is no longer the one that was indexed.
        """
        uri, key = self.uris[row], self.keys[row]
        data = self.images.read(uri)
        if content_key(data) != key:
            raise InputError(f"{uri} has changed since it was indexed: run the same command again.")
        try:
            image = decode_image(data)
        except InputError as error:
            raise InputError(
                f"{uri} is {error}; set data.check to 'decode' to have such photos left out."
            ) from error
        return np.stack(
            [render_view(image, key, v, self.recipe, size, self.base_size) for v in views]
        )


def view_source(config: RunConfig, dataset: Dataset, split: str | None) -> ViewSource:
    """Return a renderer of the training views of a dataset's images."""
    return renderer(config, dataset, split, config.views.recipe)


def eval_source(config: RunConfig, dataset: Dataset, split: str | None) -> ViewSource:
    """Return a renderer of the evaluation view of a dataset's images."""
    return renderer(config, dataset, split, EVAL)


def renderer(
    config: RunConfig, dataset: Dataset, split: str | None, recipe: ViewRecipe
) -> ViewSource:
    """Return a renderer of one kind of views of a dataset's images."""
    return ViewSource(
        dataset.reader,
        dataset.uris(split),
        dataset.keys(split),
        recipe,
        base_size=config.teacher.image_size,
    )
