"""The truth test: does the teacher still give what a cache holds?

Legend: ``B`` views tested.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flows.config import RunConfig
from flows.reporting import reporter
from flows.stages.batches import ViewSource
from flows.stages.embed import Transform
from flows.stages.teacher import load_teacher
from storage.cache import FeatureCache
from tintem_core.errors import VerificationError
from tintem_core.evaluation.cosine import row_cosines
from tintem_core.models.teacher import TeacherConfig
from tintem_core.views import is_mirrored


@dataclass(frozen=True)
class Truth:
    """What a truth test found: cosines of cached embeddings to the teacher's, now."""

    views: int
    flipped: int
    smallest: float
    mean: float
    wanted: float
    worst: str
    """Kind, view and photo of the smallest cosine."""

    @property
    def holds(self) -> bool:
        return self.smallest >= self.wanted


def measure_truth(
    config: RunConfig,
    cache: FeatureCache,
    source: ViewSource,
    seed: int | None = None,
    teacher: TeacherConfig | None = None,
    through: Transform | None = None,
) -> Truth:
    """Run the teacher again on a few random cached views, every other one flipped where any is.

    Args:
        config: says how many views.
        cache: what is tested, all kinds in it.
        source: renders the views; all of its images are in the cache.
        seed: of the choice of images and views; None: others every time.
        teacher: whose cache it is; None: the run's first teacher's.
        through: what the cached tokens went through.
    """
    rng = np.random.default_rng(seed)
    count = min(config.cache.truth_images, len(source.keys))
    rows_B = rng.choice(len(source.keys), count, replace=False)
    views_B = rng.integers(0, cache.spec.views, count)
    for i in range(0, count, 2):
        key = source.keys[rows_B[i]]
        flipped = [v for v in range(cache.spec.views) if is_mirrored(key, v, source.recipe)]
        if flipped:
            views_B[i] = rng.choice(flipped)
    cosines = {
        kind: row_cosines(fresh, cache.reader(source.keys, kind).take(views_B, rows_B))
        for kind, fresh in _embed_again(
            config, teacher or config.teacher, cache, source, rows_B, views_B, through
        ).items()
    }
    # Against NaN: argmin finds it first.
    kind = min(cosines, key=lambda name: np.nan_to_num(cosines[name].min(), nan=-2.0))
    worst = int(cosines[kind].argmin())
    return Truth(
        views=count,
        flipped=sum(
            is_mirrored(source.keys[row], int(view), source.recipe)
            for row, view in zip(rows_B, views_B, strict=True)
        ),
        smallest=float(cosines[kind][worst]),
        mean=float(np.mean(list(cosines.values()))),
        wanted=config.cache.truth_cosine,
        worst=f"{kind} view {views_B[worst]} of {source.uris[rows_B[worst]]}",
    )


def truth_test(
    config: RunConfig,
    cache: FeatureCache,
    source: ViewSource,
    seed: int,
    teacher: TeacherConfig | None = None,
    through: Transform | None = None,
) -> None:
    """Stop what would learn from a cache that no longer tells the truth.

    Raises:
        VerificationError: if a cosine is below ``cache.truth_cosine``.
    """
    truth = measure_truth(config, cache, source, seed, teacher, through)
    if not truth.holds:
        raise VerificationError(
            f"the cache does not tell the truth: {truth.worst} has cosine {truth.smallest:.4f} to "
            f"what the teacher gives now, wanted {truth.wanted}. Delete "
            f"{cache.root.url}/{cache.base} to rebuild it."
        )
    reporter().note(
        f"truth test: {truth.views} cached views embedded again, {truth.flipped} of them flipped: "
        f"smallest cosine {truth.smallest:.6f}, mean {truth.mean:.6f}"
    )


def _embed_again(
    config: RunConfig,
    teacher_config: TeacherConfig,
    cache: FeatureCache,
    source: ViewSource,
    rows_B: NDArray[np.int64],
    views_B: NDArray[np.int64],
    through: Transform | None,
) -> dict[str, NDArray[np.float32]]:
    size = teacher_config.image_size
    pixels = np.concatenate(
        [
            source.views(int(row), range(view, view + 1), size)
            for row, view in zip(rows_B, views_B.tolist(), strict=True)
        ]
    )
    teacher = load_teacher(teacher_config, config.runtime.device)
    kinds = cache.spec.kinds
    found = teacher.embed(pixels, tokens="tokens" in kinds, through=through)
    fresh = {"global": found.embedding, "tokens": found.tokens}
    return {kind: rows for kind, rows in fresh.items() if rows is not None and kind in kinds}
