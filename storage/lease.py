"""One process works on a name, the others wait: on a folder as on an object store.

leases/<name>.<generation>.json           a claim: created once, never edited, by one process alone
leases/<name>.<generation>.<token>.beat   changes as long as the claim's process lives

All that the root has to offer is that creating an object is exclusive. A claim is taken over by
creating the next generation, once every claim that is there is of a process that has ended (known
at once on the same machine), or has not changed its beat for a minute of the waiter's own clock.
Whoever has created a claim looks again: it holds only if nothing else came meanwhile.

A machine that was suspended may wake up as the second one that believes to hold. It cannot know
before it looks, so work ends in :meth:`Lease.confirm` and then a write of whole objects; what a
suspension in the midst of that write would mix up, the checksums in the record tell.
"""

import contextlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from storage.claim import Holder, own_claim, parse_claim
from storage.errors import LeaseLostError, StorageError
from storage.root import Root

FOLDER = "leases"

_SHORTEST_PAUSE = 0.2


@dataclass(frozen=True)
class Patience:
    """How often a holder gives a sign of life, and how long a silent one is waited for."""

    beat_seconds: float = 10.0
    silent_seconds: float = 60.0
    longest_pause: float = 5.0
    """Between two looks of a waiter."""


_USUAL = Patience()


class Lease:
    """The right to work on a name; see :func:`hold`."""

    def __init__(
        self, root: Root, name: str, generation: int, claim: bytes, patience: Patience
    ) -> None:
        self.name = name
        self._root = root
        self._patience = patience
        self._generation = generation
        self._claim = claim
        self._path = _claim_path(name, generation)
        self._beat_path = f"{_stem(name, generation)}.{json.loads(claim)['token']}.beat"
        self._ended = threading.Event()

    def confirm(self) -> None:
        """Make sure, before something is written, that nobody else has taken over.

        Raises:
            LeaseLostError: if somebody has.
        """
        claims = _claims(self._root, self.name)
        newest = max(claims, default=0)
        if claims.get(self._generation) == self._claim and newest == self._generation:
            return
        holder = parse_claim(claims[newest]) if newest > self._generation else None
        silent = self._patience.silent_seconds
        raise LeaseLostError(
            f"{self._root.url}: {holder or 'another process'} has taken over {self.name}, as this "
            f"one gave no sign of life for {silent:.0f} seconds (a suspended machine?). "
            "Run it again: it waits for the other one, or finds the work done."
        )

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(self._patience.beat_seconds):
            beats += 1
            with contextlib.suppress(StorageError, OSError):
                self._root.write(self._beat_path, str(beats).encode())

    def _withdraw(self) -> None:
        self._ended.set()
        self._root.delete(self._beat_path)
        if self._root.read_or_none(self._path) == self._claim:
            self._root.delete(self._path)


@contextlib.contextmanager
def hold(
    root: Root,
    name: str,
    on_wait: Callable[[Holder], None] | None = None,
    patience: Patience = _USUAL,
) -> Iterator[Lease]:
    """Wait until nobody else works on a name, and keep the others waiting until the block ends.

    What was missing before may be there afterwards: look again inside the block.

    Args:
        name: such as ``students/<id>``.
        on_wait: called once with each holder that is waited for.
        patience: the same for all who share a root.
    """
    lease = _acquire(root, name, on_wait, patience)
    beating = threading.Thread(target=lease._beat, name=f"lease {name}", daemon=True)
    beating.start()
    try:
        yield lease
    finally:
        lease._ended.set()
        beating.join()
        # What cannot be removed now is taken over once this process has ended.
        with contextlib.suppress(StorageError, OSError):
            lease._withdraw()


def _acquire(
    root: Root, name: str, on_wait: Callable[[Holder], None] | None, patience: Patience
) -> Lease:
    claim = own_claim()
    watch, announced, pause = _Watch(root, name, patience), b"", _SHORTEST_PAUSE
    while True:
        claims = _claims(root, name)
        live = watch.live(claims)
        if not live:
            lease = _try_next(root, name, claims, claim, patience)
            if lease is not None:
                return lease
        elif on_wait is not None and claims[live[-1]] != announced:
            holder = parse_claim(announced := claims[live[-1]])
            if holder is not None:
                on_wait(holder)
        # Not all at once: two that see each other both withdraw.
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(pause * 1.5, patience.longest_pause)


def _try_next(
    root: Root, name: str, over: dict[int, bytes], claim: bytes, patience: Patience
) -> Lease | None:
    """Claim the next generation; None if another one was faster.

    Args:
        over: the claims to take over, all of them known to be given up.
    """
    generation = max(over, default=0) + 1
    lease = Lease(root, name, generation, claim, patience)
    try:
        if not root.create(_claim_path(name, generation), claim):
            return None
        others = {g: data for g, data in _claims(root, name).items() if g != generation}
        if any(over.get(g) != data for g, data in others.items()):
            lease._withdraw()
            return None
        for path in _objects(root, name):
            if path != lease._path:
                root.delete(path)
    except BaseException:
        with contextlib.suppress(StorageError, OSError):
            lease._withdraw()
        raise
    return lease


class _Watch:
    """Tells claims whose process lives from those given up."""

    def __init__(self, root: Root, name: str, patience: Patience) -> None:
        self._root = root
        self._name = name
        self._patience = patience
        self._seen: dict[int, tuple[bytes, bytes | None]] = {}
        self._silent: dict[int, float] = {}
        self._looked_at = time.monotonic()

    def live(self, claims: dict[int, bytes]) -> list[int]:
        """The generations that are not given up, in order."""
        # No more than a look's share counts, whether this process slept or the root was away.
        passed = min(time.monotonic() - self._looked_at, 2 * self._patience.longest_pause)
        self._looked_at = time.monotonic()
        return [g for g in sorted(claims) if not self._is_given_up(g, claims[g], passed)]

    def _is_given_up(self, generation: int, claim: bytes, passed: float) -> bool:
        holder = parse_claim(claim)
        if holder is not None and holder.is_dead:
            return True
        token = "" if holder is None else holder.token
        beat = self._root.read_or_none(f"{_stem(self._name, generation)}.{token}.beat")
        if self._seen.get(generation) != (claim, beat):
            self._seen[generation] = (claim, beat)
            self._silent[generation] = 0.0
            return False
        self._silent[generation] += passed
        return self._silent[generation] > self._patience.silent_seconds


def _claims(root: Root, name: str) -> dict[int, bytes]:
    paths = [path for path in _objects(root, name) if path.endswith(".json")]
    found = zip(paths, root.read_many(paths), strict=True)
    return {int(path.split(".")[-2]): data for path, data in found if data is not None}


def _objects(root: Root, name: str) -> list[str]:
    """Every object of one name's lease, in order."""
    base = f"{FOLDER}/{name}"
    ours = re.compile(re.escape(base) + r"\.\d{6}\.(json|[0-9a-f]+\.beat)")
    return [path for path in root.list(base.rpartition("/")[0]) if ours.fullmatch(path)]


def _stem(name: str, generation: int) -> str:
    return f"{FOLDER}/{name}.{generation:06d}"


def _claim_path(name: str, generation: int) -> str:
    return f"{_stem(name, generation)}.json"
