"""Shuffled orders that are pure functions of (seed, epoch), at any position, in no memory.

A permutation of n rows is a Feistel network over a rectangle a × b >= n; places that fall outside
n are sent through again (cycle walking: Black & Rogaway, "Ciphers with arbitrary finite domains",
2002). Nothing of size n is ever held, every rank or worker computes only its own part, and the
order is the same on every machine and with every version of NumPy.
"""

from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from tintem_core.errors import InputError

Array = np.ndarray[Any, np.dtype[np.int64]]
_ROUNDS = 8


class EpochOrder(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """The order in which a training sees its rows."""

    rows: int = Field(ge=1, lt=2**62, description="rows of one epoch")
    seed: int = Field(0, ge=0, lt=2**64, description="another seed, other orders")

    def at(self, epoch: int, positions: Array) -> Array:
        """Rows at some positions of an epoch.

        Args:
            positions: integers in [0, rows), any shape of one dimension.

        Raises:
            InputError: if a position is out of range.
        """
        positions = np.asarray(positions, np.int64)
        if positions.size and (positions.min() < 0 or positions.max() >= self.rows):
            raise InputError(f"Positions must be in [0, {self.rows}), the rows of an epoch.")
        return _permute(positions, self.rows, (self.seed, epoch))


def _permute(places: Array, size: int, name: tuple[int, ...]) -> Array:
    """Where a permutation of range(size), chosen by a name, sends some places."""
    if size == 1:
        return np.zeros_like(places)
    a = int(np.ceil(np.sqrt(size)))
    b = -(-size // a)
    keys = np.random.SeedSequence(_words(name)).generate_state(_ROUNDS, np.uint64)
    out = places.astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):
        out[todo] = _feistel(out[todo], a, b, keys)
        inside = out[todo] < size
        todo = todo[~inside]
    return out.astype(np.int64)


def _feistel(values: Any, a: int, b: int, keys: Any) -> Any:
    """One pass over the rectangle: value = left · b + right with left < a and right < b."""
    left, right = np.divmod(values, np.uint64(b))
    for i in range(0, _ROUNDS, 2):
        left = _add(left, right, a, keys[i])
        right = _add(right, left, b, keys[i + 1])
    return left * np.uint64(b) + right


def _add(half: Any, other: Any, size: int, key: Any) -> Any:
    """(half + hash(other)) mod size. The mixing is the finaliser of SplitMix64 (Steele, 2014)."""
    mixed = other + key
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed >>= np.uint64(32)
    mixed *= np.uint64(size)
    mixed >>= np.uint64(32)
    mixed += half
    # The sum is below 2 · size; below size the subtraction wraps around to a huge number.
    return np.minimum(mixed, mixed - np.uint64(size))


def _words(name: tuple[int, ...]) -> list[int]:
    """32-bit words that differ whenever names do."""
    return [len(name), *(part >> shift & 0xFFFFFFFF for part in name for shift in (0, 32))]
