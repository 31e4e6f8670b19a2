"""Which training photos a student never learns from, because its weights are chosen by them."""

from dataclasses import replace

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.data.dataset import Dataset
from flows.data.features import evaluation_rows
from flows.data.loader import PixelStore
from flows.data.rendering import eval_source
from flows.stages.results import Indexed
from storage.keys import Column
from storage.root import Root
from tintem_core.distributed import gathered, rank, world_size
from tintem_core.errors import InputError
from tintem_core.evaluation.neighbours import knn_accuracy
from tintem_core.evaluation.to_mapped import r2
from tintem_core.models.embedder import to_float
from tintem_core.models.student import Student
from tintem_core.training.state import Learner

# Neither the digits that test photos are drawn by, nor those that data.max_images keeps photos by.
_DIGITS = 8
# Fewer say nothing about a student; see tintem_core.evaluation.bootstrap.
_FEWEST = 4
# Their accuracy is known to within 14 %, at worst, which tells good weights from bad ones.
_FEWEST_LABELLED = 50


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


def scored_by_labels(config: RunConfig, data: Dataset) -> NDArray[np.bool_] | None:
    """Return which of the training photos a validation by kNN is over: (N,); None: it is by R².

    All of them where all have labels, of two classes at least. Those that have labels where at
    least 50 of the photos held out do, of two classes at least.
    """
    labels = np.array(data.labels("train"), object)
    is_labelled: NDArray[np.bool_] = np.array([label is not None for label in labels], bool)
    if is_labelled.all():
        return is_labelled if len(set(labels)) > 1 else None
    is_held_out = held_out(config, data)
    asked, bank = labels[is_held_out & is_labelled], labels[~is_held_out & is_labelled]
    is_enough = len(asked) >= _FEWEST_LABELLED and min(len(set(asked)), len(set(bank))) > 1
    return is_labelled if is_enough else None


def selection_identity(config: RunConfig, data: Dataset) -> dict[str, object]:
    """Return what chooses the weights, where it is another measure than in earlier releases."""
    if config.training.select == "last":
        return {}
    is_scored = scored_by_labels(config, data)
    some = is_scored is not None and not is_scored.all()
    return {"chosen_by": "labelled photos"} if some else {}


def learnt_from(config: RunConfig, indexed: Indexed) -> Indexed:
    """Return the images of a run less the photos that are held out, where some are."""
    if config.training.select == "last":
        return indexed
    keys = Column(indexed.data.keys("train")).series
    held = Column(keys.filter(held_out(config, indexed.data)))
    return replace(indexed, data=indexed.data.without(held))


Array = NDArray[np.float32]
_BATCH = 64
# Of the votes, as where the official code chooses its checkpoint (arXiv 2411.15239).
_TEMPERATURE = 0.1


class Validation:
    """Scores a student on the evaluation view of the photos held out.

    By kNN against the photos that are learnt from, over those that have labels, where
    :func:`scored_by_labels` says so; else by how much of the variance of what it is asked for the
    student explains.

    Args:
        data: the images of the run, held out or not.
    """

    def __init__(self, config: RunConfig, root: Root, data: Dataset, extracted: Extracted) -> None:
        keys, labels = data.keys("train"), np.array(data.labels("train"), object)
        self._is_held_out = held_out(config, data)
        self._pixels = PixelStore(
            eval_source(config, data, "train"),
            config.student.image_size,
            1,
            _memory_left(config, int((~self._is_held_out).sum())),
            config.runtime.decode_threads,
        )
        self._knn = config.training.select_knn
        self._labels: NDArray[np.int64] | None = None
        self._asked, self._bank = self._is_held_out, ~self._is_held_out
        is_scored = scored_by_labels(config, data)
        if is_scored is not None:
            self._labels = np.unique(labels.astype(str), return_inverse=True)[1].astype(np.int64)
            self._asked, self._bank = self._asked & is_scored, self._bank & is_scored
        else:
            held = Column(Column(keys).series.filter(self._is_held_out))
            latents = evaluation_rows(root, extracted, data.name, held).all(view=0)
            self._latents_MD = torch.from_numpy(latents.astype(np.float32))

    @property
    def by(self) -> str:
        """What the score is."""
        return "R²" if self._labels is None else f"kNN (k = {self._neighbours})"

    @property
    def photos(self) -> int:
        """M, those scored."""
        return int(self._asked.sum())

    @property
    def _neighbours(self) -> int:
        return min(self._knn, int(self._bank.sum()))

    # Not in inference mode: what a model computes once and keeps would be of no use in training.
    @torch.no_grad()
    def __call__(self, learner: Learner) -> float:
        """Return the score, higher is better; under ``torchrun`` the same on every process."""
        embeddings_MK = self._embedded(learner.student, self._asked)
        if self._labels is None:
            device = next(learner.parameters()).device
            answers_MK = torch.from_numpy(embeddings_MK).to(device)
            pair = learner.objective.compared(answers_MK, self._latents_MD.to(device))
            answers, targets = (side.float().cpu().numpy() for side in pair)
            return r2(targets, answers)
        bank_NK = self._embedded(learner.student, self._bank)
        mine = slice(rank(), None, world_size())
        queries, labels = embeddings_MK[mine], self._labels[self._asked][mine]
        right = 0
        if len(queries):
            k = self._neighbours
            bank = self._labels[self._bank]
            found = knn_accuracy(bank_NK, bank, queries, labels, (k,), _TEMPERATURE)
            right = round(found[k] * len(queries))
        return float(sum(gathered(right)) / self.photos)

    def _embedded(self, student: Student, wanted_N: NDArray[np.bool_]) -> Array:
        """Embed some of the photos, each process its share of them: (wanted, K) on each."""
        rows = np.flatnonzero(wanted_N)
        device = next(student.parameters()).device
        mine, parts = rows[rank() :: world_size()], []
        for start in range(0, len(mine), _BATCH):
            chosen = mine[start : start + _BATCH]
            pixels = torch.from_numpy(self._pixels.take(np.zeros_like(chosen), chosen))
            parts.append(student(to_float(pixels, device)).float().cpu().numpy())
        by_process = np.concatenate([part for share in gathered(parts) for part in share])
        order = [np.arange(number, len(rows), world_size()) for number in range(world_size())]
        whole: Array = np.empty_like(by_process)
        whole[np.concatenate(order)] = by_process
        return whole


def _memory_left(config: RunConfig, images: int) -> int:
    """Return how many bytes of views can be kept beside the training views of some images."""
    limit = int(config.runtime.memory_gb * 1e9)
    views = config.training.views or config.views.count
    kept = images * views * config.student.image_size**2 * 3
    return limit - kept if kept <= limit else limit
