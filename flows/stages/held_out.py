"""Which training photos a student never learns from, because its weights are chosen by them."""

from dataclasses import replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.config import RunConfig
from flows.stages.datasets import Dataset
from flows.stages.results import Indexed
from storage.keys import Column
from tintem_core.errors import InputError

# Neither the digits that test photos are drawn by, nor those that data.max_images keeps photos by.
_DIGITS = 8
# Fewer say nothing about a student; see tintem_core.evaluation.bootstrap.
_FEWEST = 4


def held_out(config: RunConfig, data: Dataset) -> NDArray[np.bool_]:
    """Return which of the training photos are held out: (N,), in the order of the dataset's keys.

    It follows from a photo's content alone, so that it stays when others come or move.

    Raises:
        InputError: if too few are held out, or too few are left.
    """
    share = config.training.validation_share
    digits = Column(data.keys("train")).series.str.slice(-_DIGITS)
    drawn = digits.str.to_integer(base=16, dtype=pl.UInt32) / 16**_DIGITS
    is_held_out: NDArray[np.bool_] = (drawn < share).to_numpy()
    held, left = int(is_held_out.sum()), int((~is_held_out).sum())
    if min(held, left) < _FEWEST:
        raise InputError(
            f"training.select 'best' with training.validation_share {share:g} holds {held} of "
            f"{held + left} training photos of {data.name} out and learns from {left}, at least "
            f"{_FEWEST} are needed for each: set training.select to last, give more photos, or "
            f"{'raise' if held < _FEWEST else 'lower'} the share."
        )
    return is_held_out


def learnt_from(config: RunConfig, indexed: Indexed) -> Indexed:
    """Return the images of a run less the photos that are held out, where some are."""
    if config.training.select == "last":
        return indexed
    keys = Column(indexed.data.keys("train")).series
    held = Column(keys.filter(held_out(config, indexed.data)))
    return replace(indexed, data=indexed.data.without(held))
