"""How strange the new photos are to the teacher, next to those that were decided on before.

Legend: ``N`` reference photos, ``M`` photos scored, ``D`` teacher width.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.config.run import RunConfig
from flows.data.caches import Extracted
from flows.data.dataset import Dataset
from flows.data.features import evaluation_caches, evaluation_rows
from flows.reporting.base import reporter
from flows.retraining.changes import Changes
from storage.cache import FeatureCache
from storage.root import Root
from tintem_core.evaluation.drift import FEWEST_KNOWN, Drift, Rows, measure_drift, nearest_known

# They tell 5 % to within half a percent; each one more costs a search through the whole cache.
_MOST_CALIBRATING = 2_000


@dataclass(frozen=True)
class Scored:
    """What the OOD scores of the new photos say."""

    drift: Drift | None
    unknown: str
    """Why there is no verdict on drift; empty where there is one."""
    photos: pl.DataFrame
    """The new photos, the strangest first: key, uri, split, score, nearest (a reference key),
    nearest_uri, strange."""
    usual: NDArray[np.float32]
    """Scores of known photos that were not learned from."""

    def as_record(self) -> dict[str, Any]:
        return {"unknown": self.unknown} if self.drift is None else asdict(self.drift)


def score_changes(config: RunConfig, root: Root, extracted: Extracted, news: Changes) -> Scored:
    """Score the new photos, and known ones that were kept apart, against what was learned from.

    What was learned from is that of the latest and of students turned away since.
    """
    assert news.known is not None
    name = news.data.name
    reference, dropped = _in_cache(root, extracted, news.known, name)
    if dropped:
        reporter().note(
            f"{dropped} known photos are not in the cache any more; drift is told from the others"
        )
    bank = reference.keys("train")
    usual = reference.keys("test")[:_MOST_CALIBRATING]
    new = news.new
    if not new.keys() or not bank:
        unknown = "there are no new photos" if bank else "no photo learned from is in the cache"
        return Scored(None, unknown, _table(news, [], [], None), np.zeros(0, np.float32))
    rows_of_bank = _rows(root, extracted, name, bank)
    with reporter().track("Score new photos", len(usual) + len(new.keys()), "photos") as advance:
        scored = [
            nearest_known(rows_of_bank, _rows(root, extracted, name, keys), advance)
            for keys in (usual, new.keys())
            if keys
        ]
    usual_M = scored[0][0] if usual else np.zeros(0, np.float32)
    score_M, nearest_M = scored[-1]
    drift, unknown = None, ""
    if len(usual) < FEWEST_KNOWN:
        unknown = (
            f"{len(usual)} known test photos cannot tell what is usual, "
            f"at least {FEWEST_KNOWN} are needed"
        )
    else:
        drift = measure_drift(
            usual_M, score_M, seed=config.training.seed, resamples=config.evaluation.resamples
        )
    nearest = [bank[row] for row in nearest_M]
    threshold = None if drift is None else drift.threshold
    return Scored(drift, unknown, _table(news, score_M, nearest, threshold), usual_M)


def _table(
    news: Changes,
    score_M: Sequence[float] | NDArray[np.float32],
    nearest: Sequence[str],
    threshold: float | None,
) -> pl.DataFrame:
    assert news.known is not None
    table = news.new.manifest.table.sort("key").select("key", "uri", "split").head(len(nearest))
    # Where the known photos are tonight; where they were, for those that are gone.
    known = pl.concat(
        dataset.manifest.table.select(nearest="key", nearest_uri="uri")
        for dataset in (news.data, news.known)
    ).unique("nearest", keep="first")
    scores = np.asarray(score_M, np.float32)
    strange = scores < (-np.inf if threshold is None else threshold)
    return (
        table.with_columns(
            score=pl.Series(scores, dtype=pl.Float32),
            nearest=pl.Series(nearest, dtype=pl.String),
            strange=pl.Series(strange, dtype=pl.Boolean),
        )
        .join(known, on="nearest", how="left", maintain_order="left")
        .sort("score", maintain_order=True)
    )


def _in_cache(root: Root, extracted: Extracted, dataset: Dataset, name: str) -> tuple[Dataset, int]:
    """Leave out photos whose embedding is gone, after a compaction or with another teacher."""
    absent: set[str] = set()
    for cache in evaluation_caches(extracted, name):
        absent.update(FeatureCache.open(root, cache).missing(dataset.keys()))
    return dataset.without(list(absent)), len(absent)


def _rows(root: Root, extracted: Extracted, name: str, keys: Sequence[str]) -> Rows:
    """Read the teachers' embeddings of the evaluation view in pieces."""
    latents = evaluation_rows(root, extracted, name, keys)

    def read(start: int, stop: int) -> NDArray[np.float32]:
        rows_B = np.arange(start, stop)
        taken: NDArray[np.float32] = latents.take(np.zeros_like(rows_B), rows_B)
        return taken.astype(np.float32)

    return Rows(len(latents), latents.shape[-1], read)
