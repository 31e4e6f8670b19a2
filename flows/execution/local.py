"""Work done in this process."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from flows.config.run import RunConfig

T = TypeVar("T")


@dataclass(frozen=True)
class LocalExecutor:
    """Works on one item after the other, in this process."""

    shards_per_item: int = 8

    def map(
        self, config: RunConfig, work: Callable[[RunConfig, T, str], None], items: Mapping[str, T]
    ) -> Iterator[tuple[str, BaseException | None]]:
        """See :class:`flows.execution.base.Executor`."""
        for name, item in items.items():
            try:
                work(config, item, name)
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller is to know it
                yield name, error
            else:
                yield name, None
