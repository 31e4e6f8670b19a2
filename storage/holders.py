"""Who works on what below a root now, and what holders of leases have left that have ended."""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from storage.claim import Holder, parse_claim
from storage.errors import HeldError
from storage.lease import FOLDER, hold
from storage.root import ObjectFacts, Root

# Of another machine only its silence tells, and clocks differ: a live one beats every ten seconds.
_SILENT_SECONDS = 24 * 3600
_OBJECT = re.compile(rf"{FOLDER}/(?P<name>.+)\.(?P<generation>\d{{6}})\.(json|[0-9a-f]+\.beat)")


@dataclass(frozen=True)
class Holders:
    """The leases below a root."""

    live: dict[str, str]
    """By name who holds it, as a sentence says; also where nothing tells that it has ended."""
    ended: dict[str, tuple[str, ...]]
    """By name the objects of holders that have ended, where nobody else holds it."""

    def of(self, name: str) -> str | None:
        """Who holds a name, or one below it."""
        for held, holder in self.live.items():
            if held == name or held.startswith(f"{name}/"):
                return holder
        return None


def holders(root: Root) -> Holders:
    """Look who holds leases; nothing is changed, and nobody is waited for."""
    objects: dict[str, dict[str, dict[str, ObjectFacts]]] = {}
    for path, fact in root.facts(FOLDER).items():
        if ours := _OBJECT.fullmatch(path):
            generations = objects.setdefault(ours["name"], {})
            generations.setdefault(ours["generation"], {})[path] = fact
    live, ended = {}, {}
    for name, generations in objects.items():
        alive = [who for found in generations.values() if (who := _living(root, found))]
        if alive:
            live[name] = alive[-1]
        else:
            ended[name] = tuple(path for found in generations.values() for path in found)
    return Holders(live, ended)


@contextlib.contextmanager
def hold_at_once(root: Root, name: str) -> Iterator[None]:
    """Hold a name, or nothing.

    Raises:
        HeldError: if another process holds it.
    """

    def refuse(holder: Holder) -> None:
        raise HeldError(f"{holder} works on {name}.")

    with hold(root, name, refuse):
        yield


def _living(root: Root, generation: dict[str, ObjectFacts]) -> str | None:
    """Who has made a claim, unless it is known to have ended; None too where there is no claim."""
    for path in generation:
        claim = root.read_or_none(path) if path.endswith(".json") else None
        if claim is None:
            continue
        holder = parse_claim(claim)
        newest = max(fact.modified for fact in generation.values()) / 1e9
        is_silent = time.time() - newest > _SILENT_SECONDS
        if not is_silent and (holder is None or not holder.is_dead):
            return str(holder or "another process")
    return None
