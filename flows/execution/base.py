"""Where work runs: here, or wherever an executor sends it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar

from flows.config.run import RunConfig

T = TypeVar("T")


class Executor(Protocol):
    """Has work done by others; see :class:`flows.orchestration.ray.RayExecutor`.

    What work makes is stored in the run's root, which everybody sees: nothing comes back but how
    it ended. The same work may be begun twice, where somebody seems dead and is not.
    """

    @property
    def shards_per_item(self) -> int:
        """How many neighbouring shards of a cache make one item of work."""

    def map(
        self, config: RunConfig, work: Callable[[RunConfig, T, str], None], items: Mapping[str, T]
    ) -> Iterator[tuple[str, BaseException | None]]:
        """Have items worked on; yield each name when its item has ended, and why it failed.

        Args:
            config: the run. Who works is handed it with the resources that are his.
            work: called with a config, an item and its name, in another process maybe.
            items: by name.
        """
