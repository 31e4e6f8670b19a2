"""A root at which something happens in between, as another process would do it."""

from collections.abc import Callable

from storage.root.local import LocalRoot


class HookedRoot(LocalRoot):
    """A folder that makes a call, once, before it does what it is asked."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._hooks: list[tuple[str, str, Callable[[], object]]] = []

    def before(self, action: str, part: str, call: Callable[[], object]) -> None:
        """Call before the next read, write, create or delete of a path with a part in it."""
        self._hooks.append((action, part, call))

    def _run(self, action: str, path: str) -> None:
        for hook in list(self._hooks):
            if hook[0] == action and hook[1] in path:
                self._hooks.remove(hook)
                hook[2]()

    def read(self, path: str) -> bytes:
        self._run("read", path)
        return super().read(path)

    def write(self, path: str, data: bytes) -> None:
        self._run("write", path)
        super().write(path, data)

    def create(self, path: str, data: bytes) -> bool:
        self._run("create", path)
        return super().create(path, data)

    def delete(self, prefix: str) -> None:
        self._run("delete", prefix)
        super().delete(prefix)


def die() -> None:
    """End as a killed process does: nothing that follows is done."""
    raise KeyboardInterrupt
