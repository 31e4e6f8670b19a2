"""Which caches an extraction left: their ids, and whether one should be compacted."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.cache import FeatureCache


def latents_identity(views: str, others: Sequence[tuple[str, float]]) -> dict[str, object]:
    """Return which training latents these are: the first teacher's cache, others with weights."""
    return {"cache": views, "others": [list(other) for other in others]}


@dataclass(frozen=True)
class TeacherCaches:
    """What one of the other teachers of a run left: see :class:`Extracted`."""

    model: str
    weight: float
    training_cache: str
    evaluation_caches: dict[str, str]


@dataclass(frozen=True)
class Extracted:
    """Feature caches: training views, and the evaluation view of every dataset by name.

    Among the datasets are the sets of support images.
    """

    training_cache: str
    evaluation_caches: dict[str, str]
    reused: bool
    others: tuple[TeacherCaches, ...] = ()
    mapped_tokens: tuple[str, ...] = ()
    """With cache.keep_mapped: caches of tokens through the mapping, one per `taught_views`."""

    def identity(self) -> dict[str, object]:
        """Return which training latents these are."""
        return latents_identity(
            self.training_cache, [(o.training_cache, o.weight) for o in self.others]
        )


def fragmented(cache: FeatureCache) -> str:
    """Say what to do about a cache that many small additions have cut into too many shards."""
    found = cache.fragmentation()
    if not found.is_high:
        return ""
    return (
        f"cut into {found.shards:,} shards where {found.compacted:,} would do: "
        f"`tintem compact {cache.root.url} {cache.id}` merges them, and computes nothing again"
    )
