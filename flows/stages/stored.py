"""What storing embeddings in a smaller type costs, measured on the run's own ones."""

import math
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.reporting import reporter
from storage.cache import CacheSpec, FeatureCache
from storage.errors import StorageInputError
from storage.root import open_root
from tintem_core.errors import InputError
from tintem_core.evaluation.cosine import row_cosines

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


def check_stored(
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
