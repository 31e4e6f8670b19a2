"""What the fixture `tintem` is."""

from collections.abc import Callable

Tintem = Callable[..., tuple[int, str, str]]
