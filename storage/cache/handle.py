"""What every part of a cache needs to know of it."""

from dataclasses import dataclass

from storage.cache.spec import CacheSpec, Layout
from storage.root import Root

FOLDER = "caches"


@dataclass(frozen=True)
class CacheHandle:
    """One cache below a root: plain data, without a look at what is stored."""

    root: Root
    id: str
    spec: CacheSpec
    layout: Layout

    @property
    def base(self) -> str:
        """The folder of the cache below the root."""
        return f"{FOLDER}/{self.id}"

    @property
    def url(self) -> str:
        """Where the cache lies, for messages."""
        return f"{self.root.url}/{self.base}"

    @property
    def is_read_in_place(self) -> bool:
        """Whether shards are read where they lie, so that no copies of them are made."""
        return self.root.path() is not None and self.layout.codec == "none"
