"""What is checked of a cache: before the extraction that its precision suffices, before a training
that the teacher still gives what is stored.
"""

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from flows.config.run import RunConfig
from flows.data.embedding import Transform
from flows.data.latents import open_latents
from flows.data.rendering import ViewSource
from flows.reporting.base import reporter
from flows.stages.models import load_teacher
from storage.cache import CacheSpec, FeatureCache
from storage.errors import StorageInputError
from storage.root import open_root
from tintem_core.errors import InputError, VerificationError
from tintem_core.evaluation.cosine import row_cosines
from tintem_core.models.config import TeacherConfig
from tintem_core.views import is_mirrored

_VIEWS_TESTED = 64


def stored_cosine(spec: CacheSpec, arrays: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Write a few embeddings as a cache of this specification stores them, and read them back.

    Args:
        spec: of the cache.
        arrays: per kind (V, N, ...), as the teacher gave them.

    Returns:
        Per kind the smallest cosine of what was read to what was written.
    """
    images = min(max(1, _VIEWS_TESTED // spec.views), next(iter(arrays.values())).shape[1])
    keys = [f"{i:032x}" for i in range(images)]
    smallest = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache.create_or_open(open_root(folder), spec, rows_per_shard=images)
        (task,) = cache.plan(keys)
        cache.write_shard(task, {kind: rows[:, :images] for kind, rows in arrays.items()})
        for kind in spec.kinds:
            reader = cache.reader(keys, kind)
            cosines = [
                row_cosines(arrays[kind][view, :images], reader.all(view))
                for view in range(spec.views)
            ]
            smallest[kind] = float(np.min(cosines))
    return smallest


def check_precision(
    spec: CacheSpec, arrays: Mapping[str, NDArray[Any]], wanted: float, what: str
) -> None:
    """Say how faithful the stored form is, and what another one would keep, before all else.

    Args:
        spec, arrays: see :func:`stored_cosine`.
        wanted: the smallest cosine that is good enough.
        what: name of the cache in the note.

    Raises:
        InputError: if it is not good enough.
    """
    cosines = stored_cosine(spec, arrays)
    dtype = _dtype(spec)
    worst = min(cosines, key=lambda kind: cosines[kind])
    if not cosines[worst] >= wanted:
        raise InputError(
            f"cache.dtype: stored as {dtype}, {worst} embeddings of {what} keep a cosine of only "
            f"{_floored(cosines[worst])} to what the teacher gives, cache.stored_cosine wants "
            f"{wanted}: choose a wider type."
        )
    reporter().note(
        f"{what}: stored as {dtype}: cosine to float32 ≥ {_listed(cosines)}; "
        f"{_alternative(spec, arrays)}"
    )


def _alternative(spec: CacheSpec, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Say what the other small type would keep, and take."""
    other = _as(spec, "int8" if _dtype(spec) == "float16" else "float16")
    try:
        kept = stored_cosine(other, arrays)
    except StorageInputError:
        return f"{_dtype(other)} cannot hold them"
    share = _bytes(other) / _bytes(spec)
    return f"{_dtype(other)} would keep ≥ {_listed(kept)} in {share:.0%} of the bytes"


def _dtype(spec: CacheSpec) -> str:
    return next(iter(spec.kinds.values())).dtype


def _as(spec: CacheSpec, dtype: str) -> CacheSpec:
    kinds = {name: kind.model_copy(update={"dtype": dtype}) for name, kind in spec.kinds.items()}
    return spec.model_copy(update={"kinds": kinds})


def _bytes(spec: CacheSpec) -> int:
    """Bytes per view and image, scales included."""
    scales = sum(4 for kind in spec.kinds.values() if kind.dtype == "int8")
    return sum(kind.row_bytes for kind in spec.kinds.values()) + scales


def _listed(cosines: Mapping[str, float]) -> str:
    return ", ".join(f"{_floored(cosine)} ({kind})" for kind, cosine in cosines.items())


def _floored(cosine: float) -> str:
    """Six digits, never rounded up to a perfection that is not there."""
    return f"{math.floor(cosine * 1e6) / 1e6:.6f}"


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
    if teacher_config.latents is not None:
        latents = open_latents(teacher_config)
        keys, uris = ([c[int(row)] for row in rows_B] for c in (source.keys, source.uris))
        places = latents.places(keys, uris, source.images.source.uri)
        return {"global": latents.read(places.cast(pl.Int64).to_numpy())}
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
